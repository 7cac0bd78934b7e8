"""Battles whose true preference probabilities are known."""
