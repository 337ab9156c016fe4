"""Metrics, intervals, comparisons and calibration: pure functions on numpy arrays, free of torch."""
