"""Prediction within a time budget: one order first, the second where time allows."""
