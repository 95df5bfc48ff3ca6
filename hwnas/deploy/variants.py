"""Converts an exported model to other number formats: float16 and int8.

Quantised graphs are in the QDQ form: pairs of QuantizeLinear and DequantizeLinear around
floating-point operators, which a runtime fuses into integer operators where it can. Static
quantisation takes the ranges of activations from calibration data, dynamic quantisation from each
batch at run time (Jacob et al., CVPR 2018; Nagel et al., A White Paper on Neural Network
Quantization, 2021).
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import onnx

from hwnas.checking.outputs import Feeds
from hwnas.deploy.export import PREPROCESSING, read_metadata, require_deployable, set_metadata
from hwnas.errors import InputError
from hwnas.latency_tables.statistics import Ratio

EXPORTED = "fp32"
"""Name of the exported model among its variants."""
MIXED = "int8-mixed"
"""Stands for variants of which some operators are quantised, see `mixed_precision`."""
QUIET, WARNINGS = 4, 2
"""ONNX Runtime's levels of messages: fatal errors alone, and its default."""


def parse_variants(text: str, further: Sequence[str] = ()) -> tuple[str, ...]:
    """Parse names of variants that are separated by commas, such as `fp16,int8`.

    Args:
        text: the names.
        further: allowed names beside those of `VARIANTS`.

    Returns:
        The exported model, followed by the other variants, each once.

    Raises:
        InputError: when a name is not a variant's.
    """
    names, known = [name.strip() for name in text.split(",")], (*VARIANTS, *further)
    for name in names:
        if name not in known:
            raise InputError(
                "no such variant", where="--variants", expected=", ".join(known), actual=name
            )
    return tuple(dict.fromkeys([EXPORTED, *names]))


def make_variant(
    name: str,
    source: Path,
    calibration: Sequence[Feeds],
    folder: Path | None = None,
    exclude: Collection[str] = (),
) -> bytes:
    """Convert an exported model to another number format.

    Args:
        name: a key of `VARIANTS`.
        source: the exported float32 model.
        calibration: batches of real inputs, from which static quantisation takes its ranges.
        folder: for temporary files; the system's if None.
        exclude: names of nodes that stay float32.

    Returns:
        The serialised model. It has the inputs, outputs, opset, IR version and properties of the
        source, and the property `hwnas.variant`.

    Raises:
        InputError: when the model cannot be converted.
        HwnasError: when the result contains an operator that must not be deployed.
    """
    exported = onnx.load(source)
    properties = read_metadata(exported)
    model = convert(name, exported, calibration, str(source), folder, exclude)
    require_deployable(model)
    set_metadata(model, properties | {"variant": name})
    data: bytes = model.SerializeToString()
    return data


def convert(
    name: str,
    model: onnx.ModelProto,
    calibration: Sequence[Feeds],
    where: str,
    folder: Path | None = None,
    exclude: Collection[str] = (),
) -> onnx.ModelProto:
    """Convert a model to another number format.

    Args:
        name: a key of `VARIANTS`.
        model: a float32 model.
        calibration: batches of inputs, from which static quantisation takes its ranges.
        where: the model's file, for errors.
        folder: for temporary files; the system's if None.
        exclude: names of nodes that stay float32.

    Raises:
        InputError: when the model cannot be converted.
    """
    try:
        source = onnx.ModelProto.FromString(model.SerializeToString())
        # Conversion changes element types, so the types that the exporter inferred become invalid.
        del source.graph.value_info[:]
        with _quiet(), _temporary_folder(folder) as temporary:
            found = VARIANTS[name](_Source(source, calibration, temporary, tuple(exclude)))
            onnx.checker.check_model(found)
    except Exception as error:  # the converters' exceptions share no base class
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"cannot be converted to {name}: {reason}", where=where) from error
    return found


@contextmanager
def _temporary_folder(parent: Path | None) -> Iterator[Path]:
    """A folder that is removed at the end, and that ONNX Runtime too puts temporary files into."""
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        tempfile.tempdir = folder
        try:
            yield Path(folder)
        finally:
            tempfile.tempdir = before


def fastest(ratios: Mapping[str, Ratio], passing: Collection[str]) -> str | None:
    """The fastest variant that passes its gates.

    If the exported model passes too, another variant has to be significantly faster: the upper
    end of the confidence interval of its latency ratio must be below 1.

    Args:
        ratios: ratio of each variant's latency to the exported model's.
        passing: variants that pass their gates.

    Returns:
        Its name, or None if no variant passes.
    """
    if not passing:
        return None
    found = min(passing, key=lambda name: ratios[name].value)
    return EXPORTED if EXPORTED in passing and ratios[found].ci_high >= 1 else found


@dataclass(frozen=True)
class _Source:
    """What a variant is made from.

    Attributes:
        model: the float32 model, which may be changed.
        calibration: batches of real inputs.
        folder: for temporary files.
        exclude: names of nodes that stay float32.
    """

    model: onnx.ModelProto
    calibration: Sequence[Feeds]
    folder: Path
    exclude: tuple[str, ...]


def _exported(source: _Source) -> onnx.ModelProto:
    return source.model


def _float16(source: _Source) -> onnx.ModelProto:
    """Convert weights and operators to float16; inputs and outputs keep their types.

    What normalises raw inputs stays float32, since their values may exceed the range of float16.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    names = [node.name for node in source.model.graph.node]
    kept = [name for name in names if name.startswith(PREPROCESSING)]
    converted: onnx.ModelProto = convert_float_to_float16(
        source.model, keep_io_types=True, node_block_list=[*kept, *source.exclude]
    )
    if kept:
        _drop_round_trips(converted.graph, kept)
    # The converter appends the casts of the inputs after the nodes that read them.
    OnnxModel.graph_topological_sort(converted.graph)
    return converted


def _drop_round_trips(graph: onnx.GraphProto, kept: Collection[str]) -> None:
    """Remove what casts the inputs of float32 nodes to float16 and back.

    Args:
        graph: made by the converter, which puts such casts between any two of these nodes.
        kept: names of the nodes that stayed float32.
    """

    def is_cast(node: onnx.NodeProto | None, to: int) -> bool:
        return node is not None and node.op_type == "Cast" and node.attribute[0].i == to

    made = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        for place, name in enumerate(node.input) if node.name in kept else ():
            widening = made.get(name)
            if widening is None or not is_cast(widening, onnx.TensorProto.FLOAT):
                continue
            narrowing = made.get(widening.input[0])
            if narrowing is not None and is_cast(narrowing, onnx.TensorProto.FLOAT16):
                node.input[place] = narrowing.input[0]
    while True:
        read = {name for node in graph.node for name in node.input}
        read |= {value.name for value in graph.output}
        unread = [node for node in graph.node if not read.intersection(node.output)]
        if not unread:
            return
        for node in unread:
            graph.node.remove(node)


class _Batches:
    """Calibration data in the form that ONNX Runtime's `CalibrationDataReader` prescribes."""

    def __init__(self, batches: Sequence[Feeds]) -> None:
        self._batches = iter(batches)

    def get_next(self) -> Feeds | None:
        return next(self._batches, None)


def _static(
    source: _Source, *, per_channel: bool = True, reduce_range: bool = False
) -> onnx.ModelProto:
    """Quantise weights to int8, and activations to int8 between their extremes in calibration.

    With a reduced range, weights have 7 bits, see `hwnas.checking.saturation`.
    """
    from onnxruntime.quantization import QuantFormat, quantize_static

    given, target = source.folder / "source.onnx", source.folder / "target.onnx"
    onnx.save(source.model, given)
    quantize_static(
        given,
        target,
        _Batches(source.calibration),
        quant_format=QuantFormat.QDQ,
        per_channel=per_channel,
        reduce_range=reduce_range,
        nodes_to_exclude=list(source.exclude),
    )
    return onnx.load(target)


def _dynamic(source: _Source, *, reduce_range: bool = False) -> onnx.ModelProto:
    """Quantise weights to int8, and activations to uint8 with a range computed for each batch."""
    from onnxruntime.quantization import quantize_dynamic

    given, target = source.folder / "source.onnx", source.folder / "target.onnx"
    onnx.save(source.model, given)
    exclude = list(source.exclude)
    quantize_dynamic(given, target, reduce_range=reduce_range, nodes_to_exclude=exclude)
    return onnx.load(target)


VARIANTS: dict[str, Callable[[_Source], onnx.ModelProto]] = {
    EXPORTED: _exported,
    "fp16": _float16,
    "int8": _static,
    "int8-tensor": partial(_static, per_channel=False),
    "int8-reduced": partial(_static, reduce_range=True),
    "int8-dynamic": _dynamic,
    "int8-dynamic-reduced": partial(_dynamic, reduce_range=True),
}
"""The function that makes each variant."""


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the converters: they log advice, and warn of each weight that float16 truncates."""
    import onnxruntime

    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    onnxruntime.set_default_logger_severity(QUIET)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
        onnxruntime.set_default_logger_severity(WARNINGS)
