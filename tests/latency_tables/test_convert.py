"""Published tables of other projects: latencies, units and names are converted."""

from __future__ import annotations

import gzip
import json

import pytest

from hwnas.errors import InputError
from hwnas.latency_tables.convert import FBNET_BLOCKS, FBNET_STAGES, convert
from hwnas.latency_tables.shipped import load_shipped
from hwnas.latency_tables.table import OpSpec

BLOCK = "expanded_conv-input:14x14x96-output:7x7x192-expand:6-kernel:5-stride:2-idskip:0"


def test_proxylessnas_rows_are_milliseconds(tmp_path) -> None:
    path = tmp_path / "lut.json"
    rows = {
        BLOCK: {"mean": 4.5, "var": 0.1, "count": 150},
        "Conv-input:224x224x3-output:112x112x32": {"mean": 4.4, "var": 0.1, "count": 949},
        "Logits-input:7x7x1280-output:1000": {"mean": 0.9, "var": 0.1, "count": 949},
    }
    path.write_text(json.dumps(rows))
    table = convert("proxylessnas", path)
    assert table.latency_ms(OpSpec("mbconv_5x5_e6_relu6", 96, 192, 14, 14, 2)) == 4.5
    assert table.latency_ms(OpSpec("conv_bn_3x3_relu6", 3, 32, 224, 224, 2)) == 4.4
    assert table.latency_ms(OpSpec("classifier", 1280, 1000, 7, 7)) == 0.9
    assert table.measurement(OpSpec("classifier", 1280, 1000, 7, 7)).rounds == 949
    assert table.statistic == "mean"
    assert table.source is not None


def test_fbnet_rows_are_microseconds(tmp_path) -> None:
    layers: list = [None]
    for _, c_in, c_out, count, stride in FBNET_STAGES:
        for index in range(count):
            skips = index > 0 or (stride == 1 and c_in == c_out)
            layers.append([1000.0 * (i + 1) for i in range(8)] + [250.0] * skips)
    path = tmp_path / "lut.json"
    path.write_text(json.dumps(layers))
    table = convert("fbnet", path)
    assert table.latency_ms(OpSpec("mbconv_3x3_e1_relu", 16, 16, 112, 112)) == 1.0
    assert table.latency_ms(OpSpec("mbconv_5x5_e6_relu", 16, 24, 112, 112, 2)) == 8.0
    assert table.latency_ms(OpSpec("skip_connect", 24, 24, 56, 56)) == 0.25
    assert len(FBNET_BLOCKS) == 8


def test_tfnas_leaves_out_times_below_zero(tmp_path) -> None:
    path = tmp_path / "lut.csv.gz"
    text = "op,mid_channels,titanrtx_bs32_ms,xeon6130_bs1_ms\nbase,-1,1.9,9.3\n"
    text += "MBInvertedResBlock_112_16_8_24_k3_s2_swish,7,-0.2,0.5\n"
    path.write_bytes(gzip.compress(text.encode()))
    gpu, cpu = convert("tfnas", path, "titanrtx"), convert("tfnas", path, "xeon6130")
    spec = OpSpec("mbconv_3x3_m7_se8_swish", 16, 24, 112, 112, 2)
    assert cpu.latency_ms(spec) == 0.5
    assert gpu.missing([spec]) == [spec]
    assert "1 rows below zero" in gpu.source.note
    assert (gpu.device.batch, cpu.device.batch) == (32, 1)


@pytest.mark.parametrize("source", ["proxylessnas", "fbnet", "tfnas"])
@pytest.mark.parametrize("content", ["", "{}x", "[1, 2]", '{"a": 1}', "a,b\n1,2", "\x00"])
def test_another_file_is_refused(source: str, content: str, tmp_path) -> None:
    path = tmp_path / "lut.json"
    path.write_text(content)
    with pytest.raises(InputError):
        convert(source, path, "titanrtx")


def test_unknown_format_and_missing_device_are_named(tmp_path) -> None:
    with pytest.raises(InputError, match="one of proxylessnas, fbnet, tfnas, help"):
        convert("nn-meter", tmp_path / "x")
    path = tmp_path / "x.csv"
    path.write_text("op,mid_channels,titanrtx_bs32_ms,xeon6130_bs1_ms\nbase,-1,1,1\n")
    with pytest.raises(InputError, match="--device titanrtx or xeon6130"):
        convert("tfnas", path)


def test_shipped_tables_are_the_published_files(real_data) -> None:
    """`benchmarks/make_device_tables.py` makes the shipped tables."""
    lut = real_data / "lut"
    assert convert("fbnet", lut / "fbnet_rpi4_lut.json") == load_shipped("fbnet-rpi4")
    pixel = convert("proxylessnas", lut / "proxylessnas_pixel1_lut.json")
    assert pixel == load_shipped("proxylessnas-pixel1")
    published = json.loads((lut / "proxylessnas_pixel1_lut.json").read_text())
    assert (
        pixel.latency_ms(OpSpec("mbconv_5x5_e6_relu6", 96, 192, 14, 14, 2))
        == published[BLOCK]["mean"]
    )
    assert len(pixel.operators) == len(published)
    tfnas = convert("tfnas", lut / "tfnas_lut.csv.gz", "xeon6130")
    assert tfnas == load_shipped("tfnas-xeon6130")
