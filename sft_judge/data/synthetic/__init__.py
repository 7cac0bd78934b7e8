"""Synthetic battles with known preference probabilities."""
