"""Training of one architecture, from scratch or from inherited weights."""
