"""Metrics, intervals, calibration fits and reports."""
