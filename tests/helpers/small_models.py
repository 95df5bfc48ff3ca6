"""Small ONNX models, composed node by node, and versions of them that are broken on purpose."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

CLASSES, CHANNELS, SIDE = 3, 8, 4
FEATURES = CHANNELS * SIDE * SIDE


def residual_net(layers: int = 3, opset: int = 18) -> ModelProto:
    """Pre-activation residual blocks and a classifier: input x (n, 3, 4, 4), output y (n, 3)."""
    rng = np.random.default_rng(0)
    stored = {
        "shift": np.full((3, 1, 1), 0.5),
        "stem": rng.standard_normal((CHANNELS, 3, 3, 3)) * 0.3,
        "head": rng.standard_normal((FEATURES, CLASSES)) * 0.1,
    }
    nodes = [
        helper.make_node("Sub", ["x", "shift"], ["centred"], name="normalise"),
        helper.make_node("Conv", ["centred", "stem"], ["s0"], pads=[1] * 4),
    ]
    for index in range(layers):
        stored[f"w{index}"] = rng.standard_normal((CHANNELS, CHANNELS, 3, 3)) * 0.2
        nodes += [
            helper.make_node("Relu", [f"s{index}"], [f"r{index}"], name=f"relu{index}"),
            helper.make_node("Conv", [f"r{index}", f"w{index}"], [f"c{index}"], pads=[1] * 4),
            helper.make_node("Add", [f"s{index}", f"c{index}"], [f"s{index + 1}"]),
        ]
    nodes += [
        helper.make_node("Flatten", [f"s{layers}"], ["flat"]),
        helper.make_node("MatMul", ["flat", "head"], ["y"]),
    ]
    tensors = [
        numpy_helper.from_array(value.astype(np.float32), name) for name, value in stored.items()
    ]
    return model_of(nodes, {"x": ("n", 3, SIDE, SIDE)}, {"y": ("n", CLASSES)}, tensors, opset)


def model_of(nodes, inputs, outputs, tensors=(), opset: int = 18) -> ModelProto:
    """A valid model with float32 inputs and outputs, given as shapes by name."""
    given, computed = (
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in values.items()]
        for values in (inputs, outputs)
    )
    graph = helper.make_graph(nodes, "g", given, computed, list(tensors))
    opsets = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.checker.check_model(model)
    return model


def without_relu(model: ModelProto) -> ModelProto:
    """The same model without its first ReLU."""
    broken = ModelProto.FromString(model.SerializeToString())
    next(node for node in broken.graph.node if node.op_type == "Relu").op_type = "Identity"
    return broken


def with_other_shift(model: ModelProto) -> ModelProto:
    """The same model with the mean of its input normalisation off by one standard deviation."""
    broken = ModelProto.FromString(model.SerializeToString())
    tensor = next(t for t in broken.graph.initializer if t.name == "shift")
    shifted = numpy_helper.to_array(tensor) + np.float32(1.0)
    tensor.CopyFrom(numpy_helper.from_array(shifted, "shift"))
    return broken


def softmax_of_images(opset: int) -> ModelProto:
    """A Softmax over axis 1, which before opset 13 normalised over all axes from that one on."""
    node = helper.make_node("Softmax", ["x"], ["y"], axis=1)
    return model_of([node], {"x": ("n", 3, 4)}, {"y": ("n", 3, 4)}, opset=opset)


def with_fixed_batch(model: ModelProto) -> ModelProto:
    """A common mistake of exporters: the batch is declared open, but a Reshape fixes it to 1."""
    broken = ModelProto.FromString(model.SerializeToString())
    shape = numpy_helper.from_array(np.array([1, FEATURES]), "one")
    flatten = next(node for node in broken.graph.node if node.op_type == "Flatten")
    flatten.CopyFrom(helper.make_node("Reshape", [flatten.input[0], "one"], ["flat"]))
    broken.graph.initializer.append(shape)
    return broken


def constant_net() -> ModelProto:
    """A model whose outputs do not depend on its inputs."""
    zeros = numpy_helper.from_array(np.zeros((3, CLASSES), np.float32), "zeros")
    nodes = [
        helper.make_node("MatMul", ["x", "zeros"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["y"]),
    ]
    return model_of(nodes, {"x": ("n", 3)}, {"y": ("n", CLASSES)}, [zeros])


HIGH = 1.5
"""A threshold above all four random values of seed 0, below the largest ones of seeds 1 to 3."""


def endless_where_high(threshold: float = HIGH) -> ModelProto:
    """y = x for x (1, 4), after an endless loop if an element exceeds the threshold."""
    scalar = [helper.make_tensor_value_info("i", TensorProto.INT64, [])]
    on, state = (
        [helper.make_tensor_value_info(n, kind, []) for n in names]
        for names, kind in ((("a", "b"), TensorProto.BOOL), (("s", "t"), TensorProto.FLOAT))
    )
    steps = [helper.make_node("Identity", [a], [b]) for a, b in (("a", "b"), ("s", "t"))]
    body = helper.make_graph(steps, "body", [*scalar, on[0], state[0]], [on[1], state[1]])
    loop = [
        helper.make_node("Loop", ["chosen", "true", "zero"], ["looped"], body=body),
        helper.make_node("Add", ["x", "looped"], ["y"]),
    ]
    stored = {"true": np.array(True), "zero": np.array(0, np.float32)}
    return _where_high(threshold, 2**62, loop, stored)


def large_where_high(elements: int, threshold: float = HIGH) -> ModelProto:
    """y = x for x (1, 4), with a float32 table allocated if an element exceeds the threshold."""
    table = [
        helper.make_node("Unsqueeze", ["chosen", "first"], ["size"]),
        helper.make_node("ConstantOfShape", ["size"], ["table"]),
        helper.make_node("ReduceSum", ["table"], ["total"], keepdims=0),
        helper.make_node("Add", ["x", "total"], ["y"]),
    ]
    return _where_high(threshold, elements, table, {"first": np.array([0])})


def _where_high(threshold: float, number: int, nodes, stored) -> ModelProto:
    """A model whose nodes read `chosen`: `number` if an element exceeds the threshold, else 1."""
    choice = [
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Greater", ["most", "threshold"], ["is_high"]),
        helper.make_node("Where", ["is_high", "number", "one"], ["chosen"]),
    ]
    stored = {
        "threshold": np.array(threshold, np.float32),
        "number": np.array(number),
        "one": np.array(1),
        **stored,
    }
    tensors = [numpy_helper.from_array(value, name) for name, value in stored.items()]
    return model_of([*choice, *nodes], {"x": (1, 4)}, {"y": (1, 4)}, tensors)


def saved(model: ModelProto, path: Path) -> Path:
    """Write a model and return its path."""
    path.write_bytes(model.SerializeToString())
    return path


def labelled_data(model: Path, path: Path, count: int = 200) -> Path:
    """Write random images with the classes that a model gives them."""
    import onnxruntime

    images = np.random.default_rng(1).standard_normal((count, 3, SIDE, SIDE), dtype=np.float32)
    scores = onnxruntime.InferenceSession(str(model)).run(None, {"x": images})[0]
    np.savez(path, x=images, labels=scores.argmax(axis=1))
    return path
