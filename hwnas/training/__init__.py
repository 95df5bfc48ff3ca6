"""Training of one architecture, from scratch or from the weights that it inherits."""
