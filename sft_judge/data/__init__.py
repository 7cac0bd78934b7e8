"""Battles, probs and candidates: read, check, import, prepare, synthesise."""
