"""Latency-constrained selection: latency prediction, decoding under budgets, and measurement."""
