"""Prompts: from a battle and a token budget to token ids."""
