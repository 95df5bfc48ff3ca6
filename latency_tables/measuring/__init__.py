"""Measuring operators and models: latency, memory, energy, under load, here or elsewhere."""
