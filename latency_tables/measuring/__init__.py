"""Measuring operators and models: latency, memory, energy and throughput, on any device."""
