"""Search spaces that are found in PyTorch models with modules of `hwnas.nn`: see `space_of`."""
