"""Models whose tensors or shapes must be refused."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
from helpers.hostile_cases import HostileCases
from helpers.unchecked_models import (
    BIG,
    external,
    function,
    model_of,
    node,
    value,
    with_weights,
)
from onnx import ModelProto, TensorProto, helper, numpy_helper

CASES = HostileCases()
refused = CASES.refused


@refused("outside the model's folder", "/etc/passwd")
def external_by_absolute_path(folder):
    return external(folder, "/etc/passwd", None)


@refused("outside the model's folder", "../secret")
def external_by_parent_folder(folder):
    return external(folder, "../secret", None)


@refused("outside the model's folder", "a/../../secret")
def external_by_hidden_parent_folder(folder):
    return external(folder, "a/../../secret", None)


@refused("outside the model's folder", "no link")
def external_by_link(folder):
    (folder / "weights").symlink_to("/etc/passwd")
    return external(folder, "weights")


@refused("outside the model's folder", "no link")
def external_by_linked_folder(folder):
    (folder / "weights").symlink_to("/etc")
    return external(folder, "weights/passwd", None)


def linked(folder: Path, target: str) -> Path:
    """A model in a folder of links, as caches have it, with its weights linked to `target`."""
    for name in ("snapshot", "blobs", "other"):
        (folder / name).mkdir()
    model = external(folder / "other", "weights")
    (folder / "blobs" / "model").write_bytes(model.SerializeToString())
    (folder / "snapshot" / "bad.onnx").symlink_to("../blobs/model")
    (folder / "snapshot" / "weights").symlink_to(target)
    return folder / "snapshot" / "bad.onnx"


@refused("outside the model's folder", "no link")
def external_by_link_beside_a_link(folder):
    return linked(folder, "../other/weights")


@refused("outside the model's folder", "no link")
def external_by_link_to_a_third_folder(folder):
    return linked(folder, "/etc/passwd")


@refused("missing", "weights")
def external_by_dangling_link_beside_a_link(folder):
    return linked(folder, "../blobs/weights")


@refused("missing", "weights")
def external_missing(folder):
    return external(folder, "weights", None)


@refused("not in a regular file")
def external_pipe(folder):
    os.mkfifo(folder / "weights")
    return external(folder, "weights")


@refused("not in a regular file")
def external_folder(folder):
    (folder / "weights").mkdir()
    return external(folder, "weights")


@refused("past the end", "offset 8, length 16")
def external_past_the_end(folder):
    return external(folder, "weights", offset=8, length=16)


@refused("past the end")
def external_offset_past_the_end(folder):
    return external(folder, "weights", offset=2**60)


@refused("offset or length", "-4")
def external_negative_offset(folder):
    return external(folder, "weights", offset=-4)


@refused("do not have the declared size", "16 bytes", "8")
def external_too_short(folder):
    return external(folder, "weights", length=8)


@refused("do not have the declared size")
def external_file_too_short(folder):
    return external(folder, "weights", present=12)


@refused("stored twice")
def external_and_inside(folder):
    model = with_weights(BIG)
    weight = model.graph.initializer[0]
    weight.external_data.add(key="location", value="weights")
    return model


@refused("outside the model's folder")
def external_in_a_constant(folder):
    weight = external(folder, "../secret", None).graph.initializer[0]
    return model_of(node("Constant", "", "w", value=weight), node("Add", "x w", "y"))


@refused("outside the model's folder")
def external_in_a_subgraph(folder):
    weight = external(folder, "../secret", None).graph.initializer[0]
    branch = helper.make_graph([node("Identity", "w", "b")], "b", [], [value("b")], [weight])
    return model_of(node("If", "x", "y", then_branch=branch, else_branch=branch))


@refused("outside the model's folder")
def external_in_a_function(folder):
    weight = external(folder, "../secret", None).graph.initializer[0]
    body = [node("Constant", "", "w", value=weight), node("Add", "a w", "b")]
    return model_of(node("F", "x", "y", domain="local"), functions=(function("F", *body),))


def with_default(weight: TensorProto) -> ModelProto:
    """A model that calls a function whose attribute has this weight as its default."""
    constant = node("Constant", "", "w")
    constant.attribute.add(name="value", ref_attr_name="value", type=onnx.AttributeProto.TENSOR)
    called = function("F", constant, node("Add", "a w", "b"))
    called.attribute_proto.append(helper.make_attribute("value", weight))
    return model_of(node("F", "x", "y", domain="local"), functions=(called,))


@refused("outside the model's folder", "/etc/passwd")
def external_in_a_default(folder):
    return with_default(external(folder, "/etc/passwd", None).graph.initializer[0])


@refused("outside the model's folder", "no link")
def external_by_link_in_a_default(folder):
    (folder / "weights").symlink_to("/etc/passwd")
    return with_default(external(folder, "weights").graph.initializer[0])


@refused("do not have the declared size", str(4 * 2**60))
def declares_an_exabyte_in_a_default(folder):
    return with_default(with_weights(BIG, dims=[2**20, 2**20, 2**20]).graph.initializer[0])


@refused("not valid UTF-8")
def property_that_is_not_utf8(folder):
    model = model_of()
    helper.set_model_props(model, {"k": "ABCD"})
    return model.SerializeToString().replace(b"ABCD", b"\xff\xfe\xfd\xfc")


@refused("not valid UTF-8")
def external_in_a_file_that_is_not_utf8(folder):
    return external(folder, "ABCD", None).SerializeToString().replace(b"ABCD", b"\xff\xfe\xfd\xfc")


@refused("do not have the declared size", str(4 * 2**60))
def declares_an_exabyte(folder):
    return with_weights(dims=[2**20, 2**20, 2**20])


@refused("do not have the declared size")
def sizes_overflow_64_bits(folder):
    return with_weights(dims=[2**32, 2**32])


@refused("do not have the declared size", "16384")
def large_tensor_cut(folder):
    return with_weights(BIG, raw_data=bytes(4 * BIG - 4))


@refused("do not have the declared size", "4 values", "3")
def too_few_values(folder):
    model = with_weights(raw_data=None)
    model.graph.initializer[0].float_data.extend([1.0] * 3)
    return model


@refused("negative size", "-1")
def negative_size(folder):
    return with_weights(dims=[-1, -4])


@refused("unknown data type", "99")
def unknown_data_type(folder):
    return with_weights(data_type=99)


@refused("shape is too large")
def gigantic_input(folder):
    return model_of(inputs=(value("x", 10**6, 10**6),))


@refused("shape is too large")
def gigantic_result(folder):
    shape = numpy_helper.from_array(np.array([10**6, 10**6]), "shape")
    nodes = (node("ConstantOfShape", "shape", "z"), node("Add", "x z", "y"))
    return model_of(*nodes, stored=(shape,), outputs=(value("y", "a", "b"),))


@refused("shape is too large")
def gigantic_result_of_sums(folder):
    stored = (
        numpy_helper.from_array(np.array([10**5, 10**5]), "a"),
        numpy_helper.from_array(np.array([9, 9]), "b"),
    )
    nodes = (node("Mul", "a b", "c"), node("Expand", "x c", "y"))
    return model_of(
        *nodes, stored=stored, inputs=(value("x", 1, 1),), outputs=(value("y", "a", "b"),)
    )


@refused("negative size")
def negative_input(folder):
    return model_of(inputs=(value("x", -3, 4),))
