"""All files that the inspection must refuse, by case."""

from __future__ import annotations

from helpers import hostile_containers, hostile_graphs, hostile_tensors

CASES = {**hostile_containers.CASES, **hostile_tensors.CASES, **hostile_graphs.CASES}
"""For each case, a function that writes the file into a folder, and words of the refusal."""
