"""Files that the inspection must refuse: a builder for each, and words of the refusal."""

from __future__ import annotations

import gzip
import itertools
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import FunctionProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT
BIG = 4096
"""Number of elements of a tensor so large that the inspection does not copy its data."""

CASES: dict[str, tuple[Callable[[Path], Path], tuple[str, ...]]] = {}
"""For each case, a function that writes the file into a folder, and words of the refusal."""


def refused(*words: str) -> Callable:
    """Register the builder of a file whose refusal contains these words.

    The builder gets a folder and returns a path in it, the bytes of a model, or a model.
    """

    def register(build: Callable) -> Callable:
        def write(folder: Path) -> Path:
            made = build(folder)
            if isinstance(made, Path):
                return made
            path = folder / "bad.onnx"
            path.write_bytes(made.SerializeToString() if isinstance(made, ModelProto) else made)
            return path

        CASES[build.__name__] = (write, words)
        return build

    return register


def node(op: str, inputs: str, outputs: str, **attributes) -> NodeProto:
    domain = attributes.pop("domain", "")
    return helper.make_node(op, inputs.split(), outputs.split(), domain=domain, **attributes)


def value(name: str, *dims: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, FLOAT, dims or ("n", 4))


def model_of(
    *nodes: NodeProto,
    stored: tuple[TensorProto, ...] = (),
    inputs: tuple[onnx.ValueInfoProto, ...] | None = None,
    outputs: tuple[onnx.ValueInfoProto, ...] | None = None,
    functions: tuple[FunctionProto, ...] = (),
    opset: int = 18,
) -> ModelProto:
    """A small model; by default one input `x` and one output `y`."""
    graph = helper.make_graph(
        nodes or [node("Relu", "x", "y")],
        "g",
        (value("x"),) if inputs is None else inputs,
        (value("y"),) if outputs is None else outputs,
        stored,
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("local", 1)]
    return helper.make_model(graph, functions=functions, opset_imports=opsets, ir_version=10)


def with_weights(size: int = 4, **fields) -> ModelProto:
    """A model that adds a weight of zeros whose fields are changed, or removed by None."""
    weight = numpy_helper.from_array(np.zeros(size, np.float32), "w")
    for key, changed in fields.items():
        if key == "dims":
            del weight.dims[:]
            weight.dims.extend(changed)
        elif changed is None:
            weight.ClearField(key)
        else:
            setattr(weight, key, changed)
    return model_of(node("Add", "x w", "y"), stored=(weight,), inputs=(value("x", "n", size),))


def external(
    folder: Path, location: str, present: int | None = 16, **entries: object
) -> ModelProto:
    """A model whose weight is in another file, which is written unless `present` is None."""
    if present is not None and not (folder / location).exists():
        (folder / location).write_bytes(bytes(present))
    weight = TensorProto(name="w", data_type=FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, entry in {"location": location, **entries}.items():
        weight.external_data.add(key=key, value=str(entry))
    return model_of(node("Add", "x w", "y"), stored=(weight,))


def valid_bytes() -> bytes:
    return with_weights(BIG).SerializeToString()


# ---- files that are not models ----


@refused("no such file")
def missing(folder):
    return folder / "missing.onnx"


@refused("not an ONNX model", "0 bytes")
def empty(folder):
    return b""


@refused("not an ONNX model")
def random_bytes(folder):
    return np.random.default_rng(0).bytes(5000)


@refused("not an ONNX model")
def text(folder):
    return b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1234\n"


@refused("not a file", "a folder")
def directory(folder):
    return folder


@refused("not a file", "pipe")
def fifo(folder):
    os.mkfifo(folder / "pipe.onnx")
    return folder / "pipe.onnx"


@refused("not a file", "device")
def device(folder):
    return Path("/dev/zero")


@refused("not a file", "device")
def link_to_a_device(folder):
    (folder / "link.onnx").symlink_to("/dev/zero")
    return folder / "link.onnx"


@refused("no such file")
def dangling_link(folder):
    (folder / "link.onnx").symlink_to("nowhere")
    return folder / "link.onnx"


@refused("cannot be read")
def circular_link(folder):
    (folder / "link.onnx").symlink_to("link.onnx")
    return folder / "link.onnx"


@refused("too large", "2 GiB")
def sparse_file_of_4_gib(folder):
    path = folder / "bad.onnx"
    with path.open("wb") as file:
        file.truncate(2**32)
    return path


@refused("not an ONNX model")
def sparse_file_of_1_gib(folder):
    path = folder / "bad.onnx"
    with path.open("wb") as file:
        file.truncate(2**30)
    return path


@refused("not an ONNX model")
def gzip_bomb(folder):
    return gzip.compress(bytes(2**26), 1)


@refused("not an ONNX model")
def zip_bomb(folder):
    path = folder / "bad.onnx"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.onnx", bytes(2**26))
    return path


@refused("cut short")
def cut_after_a_tenth(folder):
    return valid_bytes()[: len(valid_bytes()) // 10]


@refused("cut short")
def last_byte_missing(folder):
    return valid_bytes()[:-1]


@refused("cut short")
def small_and_last_byte_missing(folder):
    return model_of().SerializeToString()[:-1]


@refused("not an ONNX model", "bytes announced")
def length_of_an_exabyte(folder):
    return b"\x08\x0a\x3a" + b"\xff" * 8 + b"\x0f" + bytes(2000)


@refused("not an ONNX model")
def number_without_an_end(folder):
    return b"\x08" + b"\xff" * 4000


@refused("not an ONNX model, or an empty one")
def no_nodes(folder):
    return ModelProto(ir_version=8)


@refused("without outputs")
def no_outputs(folder):
    return model_of(outputs=())


@refused("without inputs")
def no_inputs(folder):
    return model_of(node("Add", "w w", "y"), stored=with_weights().graph.initializer, inputs=())


# ---- tensors ----


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


# ---- graphs ----


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


def field(number: int, content: bytes) -> bytes:
    """A protobuf field of a length and bytes."""
    length, size = bytearray(), len(content)
    while size >= 0x80:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([number << 3 | 2]) + bytes(length) + bytes([size]) + content


def function(name: str, *nodes: NodeProto) -> FunctionProto:
    """A function from `a` to `b` in the domain `local`."""
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)]
    return helper.make_function("local", name, ["a"], ["b"], nodes, opsets)


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
