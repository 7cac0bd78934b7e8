"""Preparation of battles for training: languages, duplicates, filters, folds."""
