"""What judges single architectures without a supernet."""
