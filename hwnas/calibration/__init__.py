"""Latency tables from whole networks: which to measure, what they teach, how well it predicts."""
