"""The weight-sharing network and its search loop."""
