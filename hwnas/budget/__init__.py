"""Keeping a latency budget: pricing mixtures, decoding, and measuring what was decoded."""
