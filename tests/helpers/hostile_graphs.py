"""Models whose graphs, functions or operators must be refused."""

from __future__ import annotations

import itertools

from helpers.hostile_cases import HostileCases
from helpers.unchecked_models import (
    field,
    function,
    model_of,
    node,
    value,
    with_weights,
)
from onnx import ModelProto, TensorProto, helper

CASES = HostileCases()
refused = CASES.refused


@refused("computed after it", "'a'", "no cycle")
def cycle(folder):
    return model_of(
        node("Add", "x c", "b", name="a"), node("Relu", "b", "c", name="b"), node("Relu", "c", "y")
    )


@refused("computed after it")
def self_loop(folder):
    return model_of(node("Add", "x y", "y"))


@refused("nothing computes", "ghost")
def undefined_input(folder):
    return model_of(node("Add", "x ghost", "y"))


@refused("nothing computes", "inner")
def name_of_another_scope(folder):
    branch = helper.make_graph([node("Identity", "x", "inner")], "b", [], [value("inner")])
    return model_of(
        node("If", "x", "z", then_branch=branch, else_branch=branch), node("Add", "inner z", "y")
    )


@refused("never computed", "y")
def output_without_a_node(folder):
    return model_of(node("Relu", "x", "z"))


@refused("computed twice", "y")
def computed_twice(folder):
    return model_of(node("Relu", "x", "y"), node("Abs", "x", "y"))


@refused("computed twice", "x")
def input_computed(folder):
    return model_of(node("Relu", "x", "x"), node("Relu", "x", "y"))


@refused("stored twice", "w")
def weight_twice(folder):
    return model_of(node("Add", "x w", "y"), stored=2 * tuple(with_weights().graph.initializer))


@refused("declared twice", "x")
def input_twice(folder):
    return model_of(inputs=(value("x"), value("x")))


@refused("not an ONNX model")
def branches_nested_a_thousand_times(folder):
    # Written byte by byte, because the library refuses to serialise it.
    inner = helper.make_graph([node("Identity", "x", "b")], "b", [], [value("b")])
    data = inner.SerializeToString()
    for _ in range(1000):
        attribute = field(1, b"then_branch") + b"\xa0\x01\x05" + field(6, data)
        data = field(1, field(1, b"x") + field(2, b"b") + field(4, b"If") + field(5, attribute))
    return b"\x08\x0a" + field(7, data)


@refused("calls itself")
def function_that_calls_itself(folder):
    call = node("F", "a", "b", domain="local")
    return model_of(node("F", "x", "y", domain="local"), functions=(function("F", call),))


@refused("calls itself")
def functions_in_a_circle(folder):
    return model_of(
        node("F", "x", "y", domain="local"),
        functions=(
            function("F", node("G", "a", "b", domain="local")),
            function("G", node("F", "a", "b", domain="local")),
        ),
    )


@refused("too many nodes")
def functions_that_double(folder):
    functions = [function("F0", node("Relu", "a", "b"))]
    for index in range(60):
        called = f"F{index}"
        twice = (node(called, "a", "c", domain="local"), node(called, "c", "b", domain="local"))
        functions.append(function(f"F{index + 1}", *twice))
    return model_of(node("F60", "x", "y", domain="local"), functions=tuple(functions))


@refused("not a valid ONNX model", "NoSuchOperator")
def unknown_operator(folder):
    return model_of(node("NoSuchOperator", "x", "y"))


@refused("not a valid ONNX model")
def unknown_attribute(folder):
    return model_of(node("Relu", "x", "y", slope=1.0))


@refused("unknown opset", "999")
def opset_of_the_future(folder):
    return model_of(opset=999)


@refused("not a valid ONNX model")
def operator_of_a_later_opset(folder):
    return model_of(node("Gelu", "x", "y"), opset=13)


@refused("takes too long", "--inspect-seconds")
def a_hundred_thousand_nodes(folder):
    names = ["x", *(f"t{index}" for index in range(99_999)), "y"]
    body = b"".join(
        field(1, field(1, a.encode()) + field(2, b.encode()) + field(4, b"Relu"))
        for a, b in itertools.pairwise(names)
    )
    graph = model_of().graph
    graph.ClearField("node")
    model = ModelProto(ir_version=10, opset_import=[helper.make_opsetid("", 18)])
    return model.SerializeToString() + field(7, body + graph.SerializeToString())


@refused("takes more than 150 MB", "--inspect-mb")
def numbers_that_unpack_to_240_mb(folder):
    count = 30_000_000
    weight = TensorProto(name="w", data_type=TensorProto.INT64, dims=[count]).SerializeToString()
    weight += field(7, bytes(count))
    return model_of().SerializeToString() + field(7, field(5, weight))
