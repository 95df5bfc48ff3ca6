"""Choices in PyTorch models, and the modules of supernets that mix the options of a choice.

`Choice`, `Repeat`, `Build`, `Width` and `Value` are what a user writes a model with. The other
modules compute weighted sums over options; they are the only ones that call the fused operators of
`hwnas.kernels`.
"""

from hwnas.nn.decisions import Value, Width
from hwnas.nn.searchable import Build, Choice, Repeat

__all__ = ["Build", "Choice", "Repeat", "Value", "Width"]
