"""An exported model in other number formats: float16, and int8 with and without calibration.

Quantised graphs are written as QDQ, pairs of QuantizeLinear and DequantizeLinear around the float
operators, from which a runtime fuses what it can; static ones take the ranges of activations from
calibration data, dynamic ones from every batch that they run (Jacob et al., CVPR 2018; Nagel et
al., A White Paper on Neural Network Quantization, 2021).
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import onnx

from hwnas.deploy.export import read_metadata, require_deployable, set_metadata
from hwnas.deploy.parity import Feeds
from hwnas.errors import InputError
from hwnas.latency_tables.statistics import Ratio

EXPORTED = "fp32"
"""The variant that the others are made from."""


def parse_variants(text: str) -> tuple[str, ...]:
    """Names of variants from `fp16,int8`; the exported model is always the first of them.

    Raises:
        InputError: for a name that is no variant.
    """
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in VARIANTS:
            raise InputError(
                "no such variant", where="--variants", expected=", ".join(VARIANTS), actual=name
            )
    return tuple(dict.fromkeys([EXPORTED, *names]))


def make_variant(name: str, source: Path, calibration: Sequence[Feeds]) -> bytes:
    """Write an exported model in another number format.

    Args:
        name: a key of `VARIANTS`.
        source: the exported float32 model.
        calibration: batches of real inputs; static quantisation takes its ranges from them.

    Returns:
        The serialised model: inputs, outputs, opset, IR version and properties of the source, and
        the property `hwnas.variant`.

    Raises:
        InputError: when the model cannot be converted.
        HwnasError: when the graph holds what must not be deployed.
    """
    exported = onnx.load(source)
    properties = read_metadata(exported)
    # Conversions change tensors; what the exporter inferred is inferred again after that.
    del exported.graph.value_info[:]
    try:
        with _quiet(), tempfile.TemporaryDirectory() as folder:
            model = VARIANTS[name](exported, calibration, Path(folder))
            onnx.checker.check_model(model)
    except Exception as error:  # the converters' exceptions share no base class
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"cannot be converted to {name}: {reason}", where=str(source)) from error
    require_deployable(model)
    set_metadata(model, properties | {"variant": name})
    return model.SerializeToString()


def fastest(ratios: Mapping[str, Ratio], passing: Collection[str]) -> str | None:
    """The passing variant with the smallest ratio to the exported model's latency.

    The exported model is preferred, if it passes, to one whose interval reaches 1.

    Args:
        ratios: of all variants' latencies to the exported model's.
        passing: those that keep all gates.

    Returns:
        Its name, or None when none passes.
    """
    if not passing:
        return None
    found = min(passing, key=lambda name: ratios[name].value)
    return EXPORTED if EXPORTED in passing and ratios[found].ci_high >= 1 else found


def _exported(
    model: onnx.ModelProto, calibration: Sequence[Feeds], folder: Path
) -> onnx.ModelProto:
    return model


def _float16(model: onnx.ModelProto, calibration: Sequence[Feeds], folder: Path) -> onnx.ModelProto:
    """Weights and operators in float16, inputs and outputs in float32."""
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    converted: onnx.ModelProto = convert_float_to_float16(model, keep_io_types=True)
    # The casts of the inputs are appended behind the operators that read them.
    OnnxModel.graph_topological_sort(converted.graph)
    return converted


def _static(
    model: onnx.ModelProto, calibration: Sequence[Feeds], folder: Path, *, per_channel: bool
) -> onnx.ModelProto:
    """Weights in int8, activations in uint8 with the calibration's smallest and largest values."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Batches(CalibrationDataReader):
        def __init__(self) -> None:
            self._left = iter(calibration)

        def get_next(self) -> Feeds | None:
            return next(self._left, None)

    source, target = folder / "source.onnx", folder / "target.onnx"
    onnx.save(model, source)
    quantize_static(
        source, target, Batches(), quant_format=QuantFormat.QDQ, per_channel=per_channel
    )
    return onnx.load(target)


def _dynamic(model: onnx.ModelProto, calibration: Sequence[Feeds], folder: Path) -> onnx.ModelProto:
    """Weights in int8, activations in uint8 with the range that each batch has."""
    from onnxruntime.quantization import quantize_dynamic

    source, target = folder / "source.onnx", folder / "target.onnx"
    onnx.save(model, source)
    quantize_dynamic(source, target)
    return onnx.load(target)


VARIANTS: dict[str, Callable[[onnx.ModelProto, Sequence[Feeds], Path], onnx.ModelProto]] = {
    EXPORTED: _exported,
    "fp16": _float16,
    "int8": partial(_static, per_channel=True),
    "int8-tensor": partial(_static, per_channel=False),
    "int8-dynamic": _dynamic,
}
"""What makes each variant of (model, calibration, a folder for temporary files)."""


@contextmanager
def _quiet() -> Iterator[None]:
    """The converters advise on the root logger, and warn of each weight that float16 rounds."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
