"""Models ranked, the best of n answers, preference pairs."""
