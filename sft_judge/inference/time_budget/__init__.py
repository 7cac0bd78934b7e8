"""Prediction within a time budget: one order first, then the second order while time is left."""
