"""Training of one architecture from scratch."""
