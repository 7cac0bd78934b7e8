"""Pipelines, sweeps, estimates of their cost, and dry runs."""
