"""Evaluation of single architectures without a supernet, and search with it."""
