"""A run from data to a checked model: its stages, and the folder that they read and write."""
