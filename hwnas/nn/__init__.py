"""Modules of supernets whose output is a weighted sum over the options of a choice.

They are the only modules that call the fused operators of `hwnas.kernels`.
"""
