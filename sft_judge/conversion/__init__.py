"""Merge, quantise, export, and a plain model as a zero-shot judge."""
