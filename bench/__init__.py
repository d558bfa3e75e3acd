"""Benchmarks: figures side by side in one run, medians and ratios, never a test."""
