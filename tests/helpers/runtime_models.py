"""ONNX models for the tests of runtimes, and their inputs."""

from __future__ import annotations

import numpy as np
from helpers.small_models import model_of
from onnx import helper


def subtraction() -> bytes:
    """`y = a - b` with inputs of different roles, so that swapped ones are noticed; (n, 2)."""
    nodes = [helper.make_node("Sub", ["a", "b"], ["y"])]
    return model_of(nodes, {"a": ("n", 2), "b": ("n", 2)}, {"y": ("n", 2)}).SerializeToString()


def equal_pools() -> bytes:
    """Two equal pooling operators that read the same input; (1, 4, 8, 8)."""
    window = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    nodes = [helper.make_node("AveragePool", ["x"], [name], **window) for name in "ab"]
    nodes += [helper.make_node("Relu", ["a"], ["c"]), helper.make_node("Sub", ["b", "c"], ["y"])]
    return model_of(nodes, {"x": (1, 4, 8, 8)}, {"y": (1, 4, 8, 8)}).SerializeToString()


def rows(batch: int, width: int) -> dict[str, np.ndarray]:
    """Inputs of a model that takes `x` (batch, width); other processes can import this function."""
    return {"x": np.ones((batch, width), np.float32)}
