"""Conversion: merge, quantise, export, and use a plain model as a zero-shot judge."""
