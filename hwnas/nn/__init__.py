"""Modules whose output is a mixture of choices; the only ones that call the fused kernels."""
