"""Conversion of operator tables that other projects published.

Rows have the operator names of this package. `mbconv_<k>x<k>_e<expansion>_<activation>` is an
inverted residual block; `_m<channels>` replaces `_e<expansion>` in sources that vary the number of
hidden channels. `ds_conv_<k>x<k>_<activation>` is such a block without the first 1x1 convolution:
ProxylessNAS' blocks of expansion 1 have none, FBNet's have one. Blocks have a residual connection
if their input and output have the same shape.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hwnas.errors import InputError
from hwnas.latency_tables.calibration import Source
from hwnas.latency_tables.device_profile import DeviceProfile
from hwnas.latency_tables.files import read_bytes, read_json
from hwnas.latency_tables.rows import Measurement, OpSpec
from hwnas.latency_tables.table import LatencyTable

Rows = dict[OpSpec, Measurement]

PROXYLESS = Source(
    title="Cai, Zhu & Han, ProxylessNAS, ICLR 2019 (arXiv 1812.00332): latency of mobile blocks",
    url="https://github.com/mit-han-lab/proxylessnas",
    licence="MIT",
)
FBNET = Source(
    title="jh88/fbnet, candidate blocks of FBNet (Wu et al., CVPR 2019, arXiv 1812.03443) on a "
    "Raspberry Pi 4; microseconds in the source",
    url="https://github.com/jh88/fbnet",
    licence="MIT",
)
TFNAS = Source(
    title="Hu et al., TF-NAS, ECCV 2020 (arXiv 2008.05314): latency of blocks by hidden channels",
    url="https://github.com/AberHu/TF-NAS",
    licence="MIT",
)
MOBILE = re.compile(
    r"expanded_conv-input:(\d+)x(\d+)x(\d+)-output:\d+x\d+x(\d+)"
    r"-expand:(\d+)-kernel:(\d+)-stride:(\d+)-idskip:[01]"
)
PLAIN = re.compile(r"(Conv|Conv_1|Logits)-input:(\d+)x(\d+)x(\d+)-output:(?:\d+x\d+x)?(\d+)")
# `Logits` stands for all layers after the last convolution.
PLAIN_NAMES = {
    "Conv": ("conv_bn_3x3_relu6", 2),
    "Conv_1": ("conv_bn_1x1_relu6", 1),
    "Logits": ("classifier", 1),
}
TF_BLOCK = re.compile(r"MBInvertedResBlock_(\d+)_(\d+)_(\d+)_(\d+)_k(\d+)_s(\d+)_(\w+)")

# FBNet's searched layers (table 1 of the paper): height and width of the input, input channels,
# output channels, number of layers, stride of the first layer.
FBNET_STAGES = (
    (112, 16, 16, 1, 1),
    (112, 16, 24, 4, 2),
    (56, 24, 32, 4, 2),
    (28, 32, 64, 4, 2),
    (14, 64, 112, 4, 1),
    (14, 112, 184, 4, 2),
    (7, 184, 352, 1, 1),
)
FBNET_BLOCKS = (
    "3x3_e1",
    "3x3_e1_g2",
    "3x3_e3",
    "3x3_e6",
    "5x5_e1",
    "5x5_e1_g2",
    "5x5_e3",
    "5x5_e6",
)


def convert(source: str, path: Path, device: str | None = None) -> LatencyTable:
    """Convert a published table.

    Args:
        source: `proxylessnas`, `fbnet` or `tfnas`.
        path: the file as the project publishes it; CSV files may be compressed with gzip.
        device: `titanrtx` or `xeon6130` for TF-NAS, whose file has both; otherwise ignored.

    Raises:
        InputError: the format is unknown, or the file does not have it.
    """
    readers: dict[str, Callable[[Path, str | None], LatencyTable]] = {
        "proxylessnas": _proxylessnas,
        "fbnet": _fbnet,
        "tfnas": _tfnas,
    }
    if source not in readers:
        expected = f"one of {', '.join([*readers, 'help'])}"
        raise InputError("unknown format", where="--from", expected=expected, actual=source)
    try:
        return readers[source](path, device)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise InputError(f"not a table of {source}", where=str(path), actual=error) from None


def _proxylessnas(path: Path, device: str | None) -> LatencyTable:
    rows: Rows = {}
    for key, entry in read_json(path).items():
        mobile, plain = MOBILE.fullmatch(key), PLAIN.fullmatch(key)
        if mobile:
            height, width, c_in, c_out, expand, kernel, stride = map(int, mobile.groups())
            block = "ds_conv" if expand == 1 else "mbconv"
            expansion = "" if expand == 1 else f"_e{expand}"
            name = f"{block}_{kernel}x{kernel}{expansion}_relu6"
            spec = OpSpec(name, c_in, c_out, height, width, stride)
        elif plain:
            name, stride = PLAIN_NAMES[plain[1]]
            height, width, c_in, c_out = map(int, plain.groups()[1:])
            spec = OpSpec(name, c_in, c_out, height, width, stride)
        else:
            raise ValueError(f"unknown entry {key!r}")
        rows[spec] = _mean(float(entry["mean"]), int(entry["count"]))
    return _table(rows, "Google Pixel 1", "cpu", 1, "tflite", PROXYLESS, "2018-12-02")


def _fbnet(path: Path, device: str | None) -> LatencyTable:
    layers = [layer for layer in json.loads(read_bytes(path)) if layer is not None]
    shapes = [
        (
            side if index == 0 else side // stride,
            c_in if index == 0 else c_out,
            c_out,
            stride if index == 0 else 1,
        )
        for side, c_in, c_out, count, stride in FBNET_STAGES
        for index in range(count)
    ]
    if len(layers) != len(shapes):
        raise ValueError(f"{len(layers)} layers, expected {len(shapes)}")
    figures: dict[OpSpec, list[float]] = {}
    for layer, (side, c_in, c_out, stride) in zip(layers, shapes, strict=True):
        names = [f"mbconv_{block}_relu" for block in FBNET_BLOCKS]
        names += ["skip_connect"] * (len(layer) - len(names))
        for name, microseconds in zip(names, layer, strict=True):
            spec = OpSpec(name, c_in, c_out, side, side, stride)
            figures.setdefault(spec, []).append(float(microseconds) / 1e3)
    # Layers of equal shape were measured separately; the table states their mean.
    rows = {spec: _mean(sum(ms) / len(ms), len(ms)) for spec, ms in figures.items()}
    return _table(rows, "Raspberry Pi 4", "cpu", 1, "unknown", FBNET, "2020-01-01")


def _tfnas(path: Path, device: str | None) -> LatencyTable:
    columns = {
        "titanrtx": ("titanrtx_bs32_ms", "NVIDIA Titan RTX", "gpu", 32),
        "xeon6130": ("xeon6130_bs1_ms", "Intel Xeon Gold 6130", "cpu", 1),
    }
    if device not in columns:
        raise ValueError(f"no such device in the file; choose --device {' or '.join(columns)}")
    column, name, device_class, batch = columns[device]
    rows: Rows = {}
    left_out = 0
    reader = csv.DictReader(io.StringIO(read_bytes(path).decode("utf-8-sig")))
    if not {"op", "mid_channels", column} <= set(reader.fieldnames or ()):
        raise ValueError(f"columns {reader.fieldnames}")
    for line in reader:
        latency_ms = float(line[column])
        if latency_ms < 0:
            left_out += 1
            continue
        rows[_tf_spec(line["op"], line["mid_channels"])] = _mean(latency_ms, 1)
    # The wording is part of the shipped tables and their hashes.
    note = f"smoothed by a linear fit in the source; {left_out} rows below zero are left out"
    source = TFNAS.model_copy(update={"note": note})
    return _table(rows, name, device_class, batch, "pytorch", source, "2020-08-12")


def _tf_spec(operator: str, hidden: str) -> OpSpec:
    """Return the key of an operator and its number of hidden channels."""
    # All layers of the network that are not searched.
    if operator == "base":
        return OpSpec("base", 3, 1000, 224, 224)
    block = TF_BLOCK.fullmatch(operator)
    if block is None:
        raise ValueError(f"unknown operator {operator!r}")
    side, c_in, squeezed, c_out, kernel, stride = map(int, block.groups()[:6])
    excitation = f"_se{squeezed}" if squeezed else ""
    name = f"mbconv_{kernel}x{kernel}_m{int(hidden)}{excitation}_{block[7]}"
    return OpSpec(name, c_in, c_out, side, side, stride)


def _mean(latency_ms: float, rounds: int) -> Measurement:
    return Measurement(mean_ms=latency_ms, rounds=rounds, status="ok")


def _table(
    rows: Rows,
    device: str,
    device_class: Any,
    batch: int,
    runtime: str,
    source: Source,
    created: str,
) -> LatencyTable:
    if not rows:
        raise ValueError("no operators")
    return LatencyTable.from_measurements(
        rows,
        device=DeviceProfile.elsewhere(device, device_class, batch, runtime),
        statistic="mean",
        definitions={},
        created=created,
        source=source,
    )
