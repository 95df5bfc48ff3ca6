"""Why a search found what it found, and how far the trained network can be trusted."""
