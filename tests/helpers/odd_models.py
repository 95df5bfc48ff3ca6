"""Models with sequences, empty outputs, sizes that are no batch, and formats numpy lacks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def value(name: str, *sizes: int | str | None, kind: int = FLOAT) -> ValueInfoProto:
    """A tensor with its element type and shape."""
    return helper.make_tensor_value_info(name, kind, sizes)


def sequence(name: str) -> ValueInfoProto:
    """A sequence of float32 tensors."""
    return helper.make_tensor_sequence_value_info(name, FLOAT, None)


def node(op: str, inputs: str, outputs: str, **attributes) -> NodeProto:
    """A node; names are separated by spaces, and `-` is an omitted input."""
    names = ["" if name == "-" else name for name in inputs.split()]
    return helper.make_node(op, names, outputs.split(), **attributes)


def model_of(
    nodes: Sequence[NodeProto],
    inputs: Sequence[ValueInfoProto],
    outputs: Sequence[ValueInfoProto],
    opset: int = 18,
    **stored: np.ndarray | np.generic,
) -> ModelProto:
    """A model with the tensors that are given by name."""
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in stored.items()]
    graph = helper.make_graph(list(nodes), "g", list(inputs), list(outputs), tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def random_weights(*shape: int, seed: int = 0) -> np.ndarray:
    return 0.3 * np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def rows_as_sequence(offset: float = 0.0) -> ModelProto:
    """A sequence with an item for each row of `x @ w`; `offset * i` is added to row i."""
    nodes = [
        node("MatMul", "x w", "z"),
        node("Shape", "x", "s"),
        node("Gather", "s zero", "n0"),
        node("Range", "zero n0 one", "r"),
        node("Cast", "r", "f", to=FLOAT),
        node("Unsqueeze", "f axis", "u"),
        node("Mul", "u offset", "added"),
        node("Add", "z added", "sum"),
        node("SplitToSequence", "sum one", "y", axis=0),
    ]
    return model_of(
        nodes,
        [value("x", "n", 4)],
        [sequence("y")],
        w=random_weights(4, 4),
        zero=np.int64(0),
        one=np.int64(1),
        axis=np.array([1]),
        offset=np.float32(offset),
    )


def high_rows(threshold: float, *, as_sequence: bool = False) -> ModelProto:
    """The rows of x (8, 4) whose largest value is above a threshold; how many depends on x."""
    nodes = [
        node("ReduceMax", "x", "most", axes=[1], keepdims=0),
        node("Greater", "most threshold", "is_high"),
        node("Compress", "x is_high", "rows" if as_sequence else "y", axis=0),
    ]
    if as_sequence:
        nodes.append(node("SplitToSequence", "rows one", "y", axis=0))
    output = sequence("y") if as_sequence else value("y", "k", 4)
    stored = {"threshold": np.float32(threshold), "one": np.int64(1)}
    return model_of(nodes, [value("x", 8, 4)], [output], opset=13, **stored)


def detector() -> ModelProto:
    """Non-maximum suppression that selects no box, since no score is above its threshold."""
    nodes = [node("NonMaxSuppression", "boxes scores most overlap least", "selected")]
    return model_of(
        nodes,
        [value("boxes", "n", 20, 4), value("scores", "n", 3, 20)],
        [value("selected", "d", 3, kind=INT64)],
        most=np.array([5]),
        overlap=np.array([0.5], np.float32),
        least=np.array([100.0], np.float32),
    )


def nearest_points() -> ModelProto:
    """The 16 points next to the origin of any number of points; their number is no batch."""
    nodes = [
        node("ReduceSumSquare", "points", "distance", axes=[1], keepdims=0),
        node("TopK", "distance k", "v i", largest=0),
        node("Gather", "points i", "nearest", axis=0),
        node("MatMul", "nearest w", "y"),
    ]
    stored = {"k": np.array([16]), "w": random_weights(3, 8)}
    return model_of(nodes, [value("points", "count", 3)], [value("y", 16, 8)], opset=13, **stored)


def with_cache() -> ModelProto:
    """Keys of earlier steps, of which there may be none, in front of the new one."""
    nodes = [
        node("Concat", "past x", "present", axis=1),
        node("ReduceMean", "present", "y", axes=[1], keepdims=0),
    ]
    inputs = [value("x", "b", "s", 4), value("past", "b", "p", 4)]
    return model_of(nodes, inputs, [value("y", "b", 4), value("present", "b", "t", 4)], opset=13)


def graph_network() -> ModelProto:
    """A layer on a graph: the number of nodes is the size of a square matrix, and no batch."""
    nodes = [node("MatMul", "adjacency x", "a"), node("MatMul", "a w", "y")]
    inputs = [value("adjacency", "nodes", "nodes"), value("x", "nodes", 5)]
    return model_of(nodes, inputs, [value("y", "nodes", 3)], w=random_weights(5, 3))


def graph_with_edges() -> ModelProto:
    """The sum of each node's neighbours; edges are pairs of numbers of nodes."""
    nodes = [
        node("Split", "edges", "from to", axis=0, num_outputs=2),
        node("Squeeze", "from axis", "source"),
        node("Gather", "x source", "messages"),
        node("MatMul", "messages w", "y"),
    ]
    inputs = [value("x", "nodes", 5), value("edges", 2, "count", kind=INT64)]
    stored = {"w": random_weights(5, 3), "axis": np.array([0])}
    return model_of(nodes, inputs, [value("y", "count", 3)], **stored)


def scaled() -> ModelProto:
    """A scalar times a vector."""
    return model_of([node("Mul", "x w", "y")], [value("x")], [value("y", 4)], w=random_weights(4))


def resized() -> ModelProto:
    """An image of fixed size, and the sizes that it is resized to."""
    nodes = [node("Resize", "x - - sizes", "y", mode="nearest")]
    inputs = [value("x", 1, 3, 8, 8), value("sizes", 4, kind=INT64)]
    return model_of(nodes, inputs, [value("y", "a", "b", "c", "d")])


def embedding_and_logits() -> ModelProto:
    """An embedding of 8 numbers, and the logits of 3 classes."""
    nodes = [node("MatMul", "x w", "embedding"), node("MatMul", "embedding v", "logits")]
    outputs = [value("embedding", "n", 8), value("logits", "n", 3)]
    weights = {"w": random_weights(4, 8), "v": random_weights(8, 3, seed=1)}
    return model_of(nodes, [value("x", "n", 4)], outputs, **weights)


def binary(*, as_probability: bool) -> ModelProto:
    """One score for each sample: a probability or a logit of class 1."""
    last = node("Sigmoid" if as_probability else "Identity", "l", "y")
    nodes = [node("MatMul", "x w", "l"), last]
    return model_of(nodes, [value("x", "n", 4)], [value("y", "n", 1)], w=random_weights(4, 1))


def float16_sum(factor: float) -> ModelProto:
    """The sum of 64 numbers times a factor, in float16: it may overflow, or vanish."""
    half = TensorProto.FLOAT16
    nodes = [node("Mul", "x factor", "m"), node("ReduceSum", "m axes", "y", keepdims=1)]
    inputs, outputs = [value("x", "n", 64, kind=half)], [value("y", "n", 1, kind=half)]
    stored = {"factor": np.float16(factor), "axes": np.array([1])}
    return model_of(nodes, inputs, outputs, **stored)


def class_map(scores: np.ndarray) -> ModelProto:
    """The class of each pixel, by a 1x1 convolution with the scores of the classes as weights."""
    nodes = [node("Conv", "x w", "l"), node("ArgMax", "l", "y", axis=1, keepdims=0)]
    inputs, outputs = [value("x", "n", 3, 16, 16)], [value("y", "n", 16, 16, kind=INT64)]
    return model_of(nodes, inputs, outputs, w=scores.astype(np.float32)[:, :, None, None])


def named_twice() -> ModelProto:
    """An output that the graph names twice."""
    y = value("y", "n", 4)
    return model_of([node("Relu", "x", "y")], [value("x", "n", 4)], [y, y])


def cast_to(kind: int) -> ModelProto:
    """An output in a number format that numpy may lack."""
    nodes = [node("Cast", "x", "y", to=kind)]
    return model_of(nodes, [value("x", "n", 4)], [value("y", "n", 4, kind=kind)], opset=25)
