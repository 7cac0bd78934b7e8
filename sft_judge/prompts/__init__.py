"""A battle and a token budget to token ids."""
