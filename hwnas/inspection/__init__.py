"""Judging files that nobody vouches for, before anything in them is allocated or executed."""
