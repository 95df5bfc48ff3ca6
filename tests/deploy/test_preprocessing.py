"""Exported models that normalise raw inputs themselves."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from helpers.tiny import TINY_OPTIONS

from hwnas.data.normalisation import LARGEST, Normalisation, moments_of
from hwnas.deploy.export import export_network
from hwnas.deploy.variants import convert
from hwnas.spaces import build_space
from hwnas.spaces.networks import Network

SHAPE = (3, 16, 16)
TYPES = {"uint8": onnx.TensorProto.UINT8, "uint16": onnx.TensorProto.UINT16}


@cache
def network() -> Network:
    sizes = {"input_channels": 3, "height": 16, "width": 16, "classes": 5}
    space = build_space("mbconv", TINY_OPTIONS["mbconv"] | sizes, "test")
    return space.network(space.sample(np.random.default_rng(0))).eval()


def raw_inputs(dtype: str) -> np.ndarray:
    rng = np.random.default_rng(1)
    if dtype == "float32":
        return (2e5 + 30 * rng.standard_normal((8, *SHAPE))).astype(np.float32)
    return rng.integers(0, LARGEST[dtype] + 1, (8, *SHAPE)).astype(dtype)


def normalisation_of(inputs: np.ndarray) -> Normalisation:
    mean, std = (tuple(moment.tolist()) for moment in moments_of(inputs))
    return Normalisation(inputs.dtype.name, mean, std)


@cache
def exported(dtype: str | None) -> onnx.ModelProto:
    """The network as a model that reads raw inputs, or normalised ones if None."""
    normalisation = None if dtype is None else normalisation_of(raw_inputs(dtype))
    return export_network(network(), SHAPE, preprocessing=normalisation)


def outputs_of(model: onnx.ModelProto, inputs: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    found: np.ndarray = session.run(None, {"images": inputs})[0]
    return found


@pytest.mark.parametrize("dtype", LARGEST)
def test_raw_inputs_give_the_outputs_of_normalised_ones(dtype: str) -> None:
    raw, model = raw_inputs(dtype), exported(dtype)
    given = model.graph.input[0].type.tensor_type
    assert given.elem_type == TYPES.get(dtype, onnx.TensorProto.FLOAT)
    expected = outputs_of(exported(None), normalisation_of(raw).apply(raw).numpy())
    np.testing.assert_allclose(outputs_of(model, raw), expected, rtol=1e-5, atol=1e-6)
    assert outputs_of(model, raw[:3]).shape == (3, 5)


def test_nodes_of_the_network_keep_their_names() -> None:
    plain, model = [node.name for node in exported(None).graph.node], exported("uint8")
    first, rest = model.graph.node[:3], model.graph.node[3:]
    assert [node.name for node in first] == [f"preprocessing/{n}" for n in ("Cast", "Sub", "Div")]
    assert [node.name for node in rest] == plain


@pytest.mark.parametrize("dtype", LARGEST)
@pytest.mark.parametrize("variant, tolerance", [("fp16", 0.01), ("int8", 0.1)])
def test_variants_normalise_in_float32(
    dtype: str, variant: str, tolerance: float, tmp_path: Path
) -> None:
    """In float16, the raw values would overflow or lose what distinguishes them."""
    raw, model = raw_inputs(dtype), exported(dtype)
    converted = convert(variant, model, [{"images": raw}], "model", tmp_path)
    expected, found = outputs_of(model, raw), outputs_of(converted, raw)
    producers = {output: n.op_type for n in converted.graph.node for output in n.output}
    kept = [n for n in converted.graph.node if n.op_type in ("Sub", "Div")]
    assert [n.op_type for n in kept] == ["Sub", "Div"]
    before = {producers.get(name) for n in kept for name in n.input}
    assert before <= {None, "Cast", "Sub"}
    assert np.abs(found - expected).max() < tolerance * np.abs(expected).max()
