"""Inference: from token ids to probabilities to a submission."""
