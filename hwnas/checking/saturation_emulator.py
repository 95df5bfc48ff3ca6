"""Runs a quantised model operator by operator, with 8-bit sums as x86 has them without VNNI."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import NodeProto, helper, numpy_helper

LOWEST, HIGHEST = -(2**15), 2**15 - 1
LARGEST_WEIGHT = 64
"""Weights of at most this size cannot saturate: 2 * 255 * 64 < 2**15."""
QUIET = 4


class Emulator:
    """Runs the graph that ONNX Runtime makes of a model, one operator at a time.

    Operators that multiply 8-bit numbers are computed here in integers; all others by ONNX Runtime.

    Attributes:
        saturating: names of the outputs of operators whose sums can saturate.
    """

    def __init__(self, path: Path) -> None:
        """Load and optimise a model, without the memory layouts of one processor."""
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "optimised.onnx"
            options = ort.SessionOptions()
            options.log_severity_level = QUIET
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
            options.optimized_model_filepath = str(target)
            ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            self._model = onnx.load(target)
        graph = self._model.graph
        self._stored = {t.name: t for t in graph.initializer}
        self._arrays = {name: numpy_helper.to_array(t) for name, t in self._stored.items()}
        self._sessions: dict[tuple[str, ...], Any] = {}
        self.saturating = [n.output[0] for n in graph.node if self._can_saturate(n)]

    def run(self, feeds: Mapping[str, np.ndarray], *, saturate: bool) -> dict[str, np.ndarray]:
        """The outputs for a feed.

        Args:
            feeds: an array for each input.
            saturate: whether sums of two products are kept in 16 bits.
        """
        values: dict[str, np.ndarray] = {**self._arrays, **feeds}
        for node in self._model.graph.node:
            compute = _INTEGER.get(node.op_type)
            if compute is not None and self._can_saturate(node):
                inputs = [values[name] if name else None for name in node.input]
                values[node.output[0]] = compute(node, inputs, saturate)
            else:
                found = self._run_node(node, values)
                values |= dict(zip(filter(None, node.output), found, strict=True))
        return {value.name: values[value.name] for value in self._model.graph.output}

    def _can_saturate(self, node: NodeProto) -> bool:
        """Whether an operator multiplies unsigned activations by large signed weights."""
        place = _WEIGHTS.get(node.op_type)
        weights = None if place is None else self._arrays.get(node.input[place])
        if weights is None or weights.dtype != np.int8:
            return False
        if node.op_type == "QLinearConv" and _is_depthwise(node, weights):
            return False  # computed in 32 bits by a kernel of its own
        return bool(np.abs(weights.astype(np.int16)).max(initial=0) > LARGEST_WEIGHT)

    def _run_node(self, node: NodeProto, values: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The outputs of one operator, computed by ONNX Runtime."""
        names = [name for name in dict.fromkeys(node.input) if name]
        given = [name for name in names if name not in self._stored]
        key = (node.output[0], *(str(values[name].dtype) for name in given))
        if key not in self._sessions:
            self._sessions[key] = self._session(node, names, {n: values[n] for n in given})
        found: list[np.ndarray] = self._sessions[key].run(
            None, {name: np.ascontiguousarray(values[name]) for name in given}
        )
        return found

    def _session(
        self, node: NodeProto, names: list[str], given: Mapping[str, np.ndarray]
    ) -> ort.InferenceSession:
        inputs = [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(array.dtype), [None] * array.ndim
            )
            for name, array in given.items()
        ]
        outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
        stored = [self._stored[name] for name in names if name in self._stored]
        graph = helper.make_graph([node], "node", inputs, outputs, stored)
        model = helper.make_model(
            graph,
            opset_imports=self._model.opset_import,
            functions=self._model.functions,
            ir_version=self._model.ir_version,
        )
        options = ort.SessionOptions()
        options.log_severity_level = QUIET
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        return ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )


def pairwise_product(a: np.ndarray, b: np.ndarray, *, saturate: bool) -> np.ndarray:
    """The matrix product of uint8 and int8 numbers, as `vpmaddubsw` and `vpmaddwd` compute it.

    Args:
        a: activations, (..., rows, depth), uint8.
        b: weights, (depth, columns), int8.
        saturate: whether the sums of products 2i and 2i + 1 are kept in 16 bits.

    Returns:
        Sums, (..., rows, columns), int32.
    """
    left, right = a.astype(np.int32), b.astype(np.int32)
    if not saturate:
        return np.asarray(left @ right)
    total = np.zeros((*left.shape[:-1], right.shape[-1]), np.int32)
    for first in range(0, len(right), 2):
        pair = slice(first, first + 2)
        products = left[..., pair, None] * right[pair]
        total += np.clip(products.sum(axis=-2), LOWEST, HIGHEST)
    return total


Inputs = list[np.ndarray | None]


def _matmul_integer(node: NodeProto, inputs: Inputs, saturate: bool) -> np.ndarray:
    a, b, *zeros = inputs
    a_zero = zeros[0] if zeros else None
    b_zero = zeros[1] if len(zeros) > 1 else None
    return _sums(_array(a), _array(b), a_zero, b_zero, saturate)


def _qlinear_matmul(node: NodeProto, inputs: Inputs, saturate: bool) -> np.ndarray:
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = inputs
    sums = _sums(_array(a), _array(b), a_zero, b_zero, saturate)
    return _requantised(sums, _array(a_scale) * _array(b_scale), y_scale, y_zero)


def _qgemm(node: NodeProto, inputs: Inputs, saturate: bool) -> np.ndarray:
    a, a_scale, a_zero, b, b_scale, b_zero, c, *rest = inputs
    attributes = {x.name: helper.get_attribute_value(x) for x in node.attribute}
    left, right = _array(a), _array(b)
    left = left.T if attributes.get("transA") else left
    right = right.T if attributes.get("transB") else right
    sums = _sums(left, right, a_zero, b_zero, saturate)
    if c is not None:
        sums = sums + c
    scale = np.float32(attributes.get("alpha", 1.0)) * _array(a_scale) * _array(b_scale)
    if not rest or rest[0] is None:
        return np.asarray(sums.astype(np.float32) * scale)
    return _requantised(sums, scale, rest[0], rest[1] if len(rest) > 1 else None)


def _dynamic_matmul(node: NodeProto, inputs: Inputs, saturate: bool) -> np.ndarray:
    """DynamicQuantizeMatMul: activations are quantised by the range of the batch."""
    a, b, b_scale, b_zero, bias = (*inputs, None, None)[:5]
    values = _array(a)
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    scale = np.float32((np.float32(high) - np.float32(low)) / np.float32(255))
    scale = scale if scale else np.float32(1)
    zero = np.clip(np.rint(np.float32(-low) / scale), 0, 255).astype(np.uint8)
    quantised = np.clip(np.rint(values / scale) + zero, 0, 255).astype(np.uint8)
    sums = _sums(quantised, _array(b), zero, b_zero, saturate)
    found = sums.astype(np.float32) * (scale * _array(b_scale))
    return np.asarray(found if bias is None else found + bias, np.float32)


def _integer_to_float(node: NodeProto, inputs: Inputs, saturate: bool) -> np.ndarray:
    """MatMulIntegerToFloat."""
    a, b, a_scale, b_scale, a_zero, b_zero, bias = (*inputs, None, None, None)[:7]
    sums = _sums(_array(a), _array(b), a_zero, b_zero, saturate)
    found = sums.astype(np.float32) * (_array(a_scale) * _array(b_scale))
    return np.asarray(found if bias is None else found + bias, np.float32)


def _qlinear_conv(node: NodeProto, inputs: Inputs, saturate: bool) -> np.ndarray:
    """QLinearConv: patches with the channels innermost, as ONNX Runtime lays them out."""
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, *bias = inputs
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    weights, groups = _array(w), int(attributes.get("group", 1))
    kernel = weights.shape[2:]
    patches, sizes = _patches(_array(x), _array(x_zero), kernel, attributes)
    batch, channels = len(_array(x)), _array(x).shape[1]
    per_group = channels // groups
    columns = []
    scale = _array(w_scale).reshape(-1)
    for group in range(groups):
        rows = patches[..., group * per_group : (group + 1) * per_group]
        own = slice(group * len(weights) // groups, (group + 1) * len(weights) // groups)
        matrix = np.moveaxis(weights[own], 1, -1).reshape(own.stop - own.start, -1).T
        zero = _array(w_zero).reshape(-1)
        columns.append(
            _sums(
                rows.reshape(-1, matrix.shape[0]),
                matrix,
                x_zero,
                zero if zero.size == 1 else zero[own],
                saturate,
            )
        )
    sums = np.concatenate(columns, axis=1)
    if bias and bias[0] is not None:
        sums = sums + bias[0]
    found = _requantised(sums, _array(x_scale) * scale, y_scale, y_zero)
    return np.moveaxis(found.reshape(batch, *sizes, -1), -1, 1)


def _patches(
    x: np.ndarray, zero: np.ndarray, kernel: tuple[int, ...], attributes: Mapping[str, Any]
) -> tuple[np.ndarray, tuple[int, ...]]:
    """Patches (batch * positions, kernel positions, channels), and the sizes of the output."""
    dims = len(kernel)
    strides = list(attributes.get("strides", [1] * dims))
    dilations = list(attributes.get("dilations", [1] * dims))
    extent = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    pads = list(attributes.get("pads", [0] * 2 * dims))
    automatic = attributes.get("auto_pad", b"NOTSET")
    if automatic in (b"SAME_UPPER", b"SAME_LOWER"):
        sizes = x.shape[2:]
        total = [
            max((-(-n // s) - 1) * s + e - n, 0)
            for n, s, e in zip(sizes, strides, extent, strict=True)
        ]
        small, large = [t // 2 for t in total], [t - t // 2 for t in total]
        pads = small + large if automatic == b"SAME_UPPER" else large + small
    widths = [(0, 0), (0, 0), *zip(pads[:dims], pads[dims:], strict=True)]
    padded = np.pad(x, widths, constant_values=int(zero.ravel()[0]))
    windows = np.lib.stride_tricks.sliding_window_view(padded, extent, tuple(range(2, 2 + dims)))
    places = tuple(slice(None, None, s) for s in strides)
    inner = tuple(slice(None, None, d) for d in dilations)
    windows = windows[(slice(None), slice(None), *places, *inner)]
    sizes = windows.shape[2 : 2 + dims]
    last = np.moveaxis(windows, 1, -1)
    return last.reshape(-1, int(np.prod(kernel)), x.shape[1]), sizes


def _sums(
    a: np.ndarray,
    b: np.ndarray,
    a_zero: np.ndarray | None,
    b_zero: np.ndarray | None,
    saturate: bool,
) -> np.ndarray:
    """Sums of products without their zero points, which are corrected after the products."""
    sums = pairwise_product(a, b, saturate=saturate)
    left = np.int32(0) if a_zero is None else np.int32(a_zero.ravel()[0])
    right = np.zeros(1, np.int32) if b_zero is None else b_zero.astype(np.int32).ravel()
    sums = sums - left * b.astype(np.int32).sum(axis=0)
    sums = sums - a.astype(np.int32).sum(axis=-1, keepdims=True) * right
    return np.asarray(sums + np.int32(len(b)) * left * right, np.int32)


def _requantised(
    sums: np.ndarray, scale: np.ndarray, y_scale: np.ndarray | None, y_zero: np.ndarray | None
) -> np.ndarray:
    zero = np.zeros(1, np.uint8) if y_zero is None else y_zero
    limits = np.iinfo(zero.dtype)
    factor = (scale / _array(y_scale)).astype(np.float32)
    rounded = np.rint(sums.astype(np.float32) * factor) + zero.astype(np.float32)
    return np.asarray(np.clip(rounded, limits.min, limits.max), zero.dtype)


def _array(value: np.ndarray | None) -> np.ndarray:
    assert value is not None
    return value


def _is_depthwise(node: NodeProto, weights: np.ndarray) -> bool:
    groups = next((a.i for a in node.attribute if a.name == "group"), 1)
    return bool(groups > 1 and weights.shape[1] == 1)


_INTEGER: dict[str, Callable[[NodeProto, Inputs, bool], np.ndarray]] = {
    "MatMulInteger": _matmul_integer,
    "QLinearMatMul": _qlinear_matmul,
    "QGemm": _qgemm,
    "DynamicQuantizeMatMul": _dynamic_matmul,
    "MatMulIntegerToFloat": _integer_to_float,
    "QLinearConv": _qlinear_conv,
}
_WEIGHTS = {
    "MatMulInteger": 1,
    "QLinearMatMul": 3,
    "QGemm": 3,
    "DynamicQuantizeMatMul": 1,
    "MatMulIntegerToFloat": 1,
    "QLinearConv": 3,
}
"""Which input of each operator holds the weights."""
