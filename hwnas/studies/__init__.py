"""Experiments on strategies: a benchmark with known accuracies, and the search for settings."""
