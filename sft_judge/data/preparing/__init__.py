"""Battles to folds: languages, duplicates, leaks, filters."""
