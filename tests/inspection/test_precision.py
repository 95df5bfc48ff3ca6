"""The number format of a model follows what its outputs depend on, not dead nodes."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.small_models import SIDE, residual_net, saved
from helpers.unchecked_models import function, model_of, node, value
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from hwnas.deploy.variants import make_variant
from hwnas.inspection.precision import precision_of
from hwnas.inspection.process import inspect_model

FEW, MANY = (numpy_helper.from_array(np.ones(n, np.float16), "halves") for n in (4, 100_000))
CAST = node("Cast", "halves", "floats", to=TensorProto.FLOAT)


def quantised(given: str, computed: str) -> list[NodeProto]:
    return [
        node("Constant", "", "scale", value_float=1.0),
        node("QuantizeLinear", f"{given} scale", "bytes"),
        node("DequantizeLinear", "bytes scale", computed),
    ]


def calling(*nodes: NodeProto, called: bool = True) -> ModelProto:
    """A model with a function of these nodes, from `a` to `b`, that is called or not."""
    call = node("F", "x", "y", domain="local") if called else node("Relu", "x", "y")
    return model_of(call, functions=(function("F", *nodes),))


def beside(*nodes, stored=()) -> ModelProto:
    """A float32 model with dead nodes and unused tensors in front of its own."""
    model = residual_net()
    kept = [*model.graph.node]
    model.graph.ClearField("node")
    model.graph.node.extend([*nodes, *kept])
    model.graph.initializer.extend(stored)
    return model


def with_omitted_values() -> ModelProto:
    """A dead node omits an output, and a live node an input."""
    dead = helper.make_node("Dropout", ["floats"], ["", "mask"])
    live = helper.make_node("Clip", ["x", "", "most"], ["y"])
    most = numpy_helper.from_array(np.array(1, np.float32), "most")
    return model_of(*quantised("x", "floats"), dead, live, stored=(most,))


@pytest.mark.parametrize(
    "model",
    [
        residual_net(),
        beside(stored=[FEW]),
        beside(stored=[MANY]),
        beside(node("Constant", "", "halves", value=MANY), CAST),
        beside(*quantised("x", "floats")),
        with_omitted_values(),
        calling(*quantised("a", "b"), called=False),
        calling(*quantised("a", "c"), node("Relu", "a", "b")),
    ],
)
def test_dead_nodes_and_unused_tensors_do_not_change_the_format(model) -> None:
    assert precision_of(model) == "float32"


def through_a_branch() -> ModelProto:
    """A subgraph reads a quantised value from outside."""
    branch = helper.make_graph([node("Identity", "floats", "b")], "b", [], [value("b")])
    chosen = node("If", "x", "y", then_branch=branch, else_branch=branch)
    return model_of(*quantised("x", "floats"), chosen)


def with_as_many_floats() -> ModelProto:
    floats = numpy_helper.from_array(np.ones(4, np.float32), "w")
    nodes = (CAST, node("Add", "x floats", "z"), node("Add", "z w", "y"))
    return model_of(*nodes, stored=(FEW, floats))


ADD = node("Add", "x floats", "y")


@pytest.mark.parametrize(
    "model, expected",
    [
        (model_of(CAST, ADD, stored=(FEW,)), "float16"),
        (model_of(node("Constant", "", "halves", value=FEW), CAST, ADD), "float16"),
        (with_as_many_floats(), "float32"),
        (model_of(*quantised("x", "floats"), ADD), "int8"),
        (calling(*quantised("a", "b")), "int8"),
        (through_a_branch(), "int8"),
    ],
)
def test_what_an_output_depends_on_decides_the_format(model, expected) -> None:
    assert precision_of(model) == expected


@pytest.mark.parametrize(
    "name, expected", [("fp16", "float16"), ("int8", "int8"), ("int8-dynamic", "int8")]
)
def test_a_variant_has_its_number_format(name, expected, tmp_path) -> None:
    source = saved(residual_net(), tmp_path / "model.onnx")
    images = np.random.default_rng(0).standard_normal((8, 3, SIDE, SIDE), dtype=np.float32)
    path = tmp_path / "variant.onnx"
    path.write_bytes(make_variant(name, source, [{"x": images}]))
    assert inspect_model(path).precision == expected
