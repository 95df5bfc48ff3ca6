"""Validates untrusted files before anything in them is allocated or executed."""
