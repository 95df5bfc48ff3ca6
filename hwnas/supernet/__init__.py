"""Search with a supernet: its search loop, architecture gradients and weight training."""
