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


def cast(given: str, computed: str, kind: int) -> NodeProto:
    return node("Cast", given, computed, to=kind)


def contrib(op: str, inputs: str, stored: np.ndarray, **attributes) -> ModelProto:
    """An operator of ONNX Runtime's own domain that reads a stored tensor `w`."""
    called = node(op, inputs, "y", domain="com.microsoft", **attributes)
    model = model_of(called, stored=(numpy_helper.from_array(stored, "w"),))
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model


def in_halves(*, is_dead: bool = False) -> ModelProto:
    """Float32 weights and inputs that are cast to float16, and an operator between the casts."""
    weight = numpy_helper.from_array(np.ones(4, np.float32), "w")
    nodes = (
        cast("x", "h", TensorProto.FLOAT16),
        cast("w", "v", TensorProto.FLOAT16),
        node("Mul", "h v", "m"),
        cast("m", "z", TensorProto.FLOAT),
        node("Relu", "x" if is_dead else "z", "y"),
    )
    return model_of(*nodes, stored=(weight,))


def with_half_inputs() -> ModelProto:
    """Inputs in float16 that are moved, widened, and computed with in float32."""
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT16, ["n", 4])
    nodes = (
        node("Transpose", "x", "t"),
        node("Transpose", "t", "u"),
        cast("u", "f", TensorProto.FLOAT),
        node("Relu", "f", "y"),
    )
    return model_of(*nodes, inputs=(given,))


BYTES = np.ones((4, 4), np.uint8)
CASES = {
    "float16 by casts": (in_halves(), "float16"),
    "float16 by casts that nothing reads": (in_halves(is_dead=True), "float32"),
    "float16 inputs that are widened": (with_half_inputs(), "float32"),
    "float16 in a function": (
        calling(cast("a", "h", TensorProto.FLOAT16), cast("h", "b", TensorProto.FLOAT)),
        "float16",
    ),
    "bfloat16 by a cast": (
        model_of(cast("x", "h", TensorProto.BFLOAT16), cast("h", "y", TensorProto.FLOAT)),
        "float16",
    ),
    "float8 by a cast": (
        model_of(cast("x", "h", TensorProto.FLOAT8E5M2), cast("h", "y", TensorProto.FLOAT)),
        "int8",
    ),
    "weights of 4 bits": (contrib("MatMulNBits", "x w", BYTES, K=4, N=4, bits=4), "int8"),
    "an operator of unknown name with weights of 8 bits": (
        contrib("Whatever", "x w", BYTES),
        "int8",
    ),
    "an operator of unknown name": (contrib("Whatever", "x w", np.ones(4, np.float32)), "float32"),
    "weights of 8 bits that are cast": (
        model_of(
            cast("w", "f", TensorProto.FLOAT),
            node("Mul", "x f", "y"),
            stored=(numpy_helper.from_array(np.ones(4, np.int8), "w"),),
        ),
        "int8",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_arithmetic_decides_not_names_or_storage(name, tmp_path) -> None:
    model, expected = CASES[name]
    assert precision_of(model) == expected
    assert inspect_model(saved(model, tmp_path / "model.onnx")).precision == expected


@pytest.mark.parametrize(
    "name, expected", [("fp16", "float16"), ("int8", "int8"), ("int8-dynamic", "int8")]
)
def test_a_variant_has_its_number_format(name, expected, tmp_path) -> None:
    source = saved(residual_net(), tmp_path / "model.onnx")
    images = np.random.default_rng(0).standard_normal((8, 3, SIDE, SIDE), dtype=np.float32)
    path = tmp_path / "variant.onnx"
    path.write_bytes(make_variant(name, source, [{"x": images}]))
    assert inspect_model(path).precision == expected
