"""Ranking of models, best of n answers, and preference pairs."""
