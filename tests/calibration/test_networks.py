"""CSV files of networks and latencies: round trip, malformed files, and wrong units."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers.tiny import tiny_space
from hypothesis import given, settings
from hypothesis import strategies as st

from hwnas.calibration.networks import read_measurements, read_networks, write_networks
from hwnas.calibration.prior import from_devices
from hwnas.errors import InputError
from hwnas.latency_tables.shipped import load_shipped
from hwnas.spaces import SPACES, build_space

NASBENCH201 = build_space("nasbench201", {})
CELL = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"


@pytest.mark.parametrize("name", sorted(SPACES))
def test_written_networks_are_read_back(name: str, tmp_path, rng) -> None:
    space = tiny_space(name)
    networks = [space.sample(rng) for _ in range(5)]
    latency_ms = [0.5, 1.25, 3.0, 4.0, 1e-3]
    write_networks(tmp_path / "n.csv", space, networks, {"latency_ms": latency_ms})
    assert read_networks(tmp_path / "n.csv", space) == networks
    again, figures = read_measurements(tmp_path / "n.csv", space)
    assert again == networks
    assert figures.tolist() == latency_ms


def test_architecture_files_are_read_relative_to_the_csv_file(tmp_path, rng) -> None:
    space = tiny_space("darts")
    network = space.sample(rng)
    (tmp_path / "a.json").write_text(json.dumps(network.to_json()))
    (tmp_path / "n.csv").write_text("arch,latency_ms\na.json,2.5\n")
    assert read_measurements(tmp_path / "n.csv", space)[0] == [network]


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "missing column arch, latency_ms, expected a header with arch,latency_ms"),
        ("arch\n" + CELL, "missing column latency_ms"),
        ("arch,latency_ms\n", "no networks"),
        (f"arch,latency_ms\n{CELL},fast", r"line 2: not a latency, .*got fast"),
        (f"arch,latency_ms\n{CELL},1\n{CELL},-1", r"line 3: not a latency"),
        (f"arch,latency_ms\n{CELL},nan", r"line 2: not a latency"),
        (f"arch,latency_ms\n{CELL}", r"line 2: not a latency"),
        ("arch,latency_ms\n|conv~0|,1", r"line 2: genotype"),
        ("arch,latency_ms\n{bad,1", r"line 2: not a genotype"),
        ("arch,latency_ms\nmissing.json,1", r"line 2: .*no such file"),
    ],
)
def test_malformed_files_are_refused(text: str, message: str, tmp_path) -> None:
    path = tmp_path / "m.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_measurements(path, NASBENCH201)


def test_a_byte_order_mark_is_no_part_of_the_header(tmp_path) -> None:
    """Excel writes one into its "CSV UTF-8"."""
    path = tmp_path / "m.csv"
    path.write_bytes(f"\ufeffarch,latency_ms\r\n{CELL},1.0\r\n".encode())
    (network,) = read_networks(path, NASBENCH201)
    assert read_measurements(path, NASBENCH201)[0] == [network]


def test_missing_and_binary_files_are_refused(tmp_path) -> None:
    for content in (None, b"\xff\xfe\x00"):
        path = tmp_path / "m.csv"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(InputError, match="cannot be read"):
            read_measurements(path, NASBENCH201)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(tmp_path_factory, text: str) -> None:
    path = tmp_path_factory.mktemp("any") / "m.csv"
    path.write_text(f"arch,latency_ms\n{text}", encoding="utf-8")
    try:
        networks, latency_ms = read_measurements(path, NASBENCH201)
    except InputError:
        return
    assert len(networks) == len(latency_ms) > 0


@pytest.mark.parametrize(
    "factor, words", [(1e3, "read as microseconds"), (1e-3, "read as seconds"), (1, None)]
)
def test_latencies_in_a_wrong_unit_are_refused(
    factor: float, words: str | None, tmp_path, rng
) -> None:
    prior = from_devices(NASBENCH201, [load_shipped("nasbench201-1080ti_32")] * 2)
    networks = [NASBENCH201.sample(rng) for _ in range(6)]
    path = tmp_path / "m.csv"
    write_networks(path, NASBENCH201, networks, {"latency_ms": list(12 * factor * np.ones(6))})
    if words is None:
        read_measurements(path, NASBENCH201, prior)
        return
    with pytest.raises(InputError, match=f"{words}, it would be 12 ms"):
        read_measurements(path, NASBENCH201, prior)
    read_measurements(path, NASBENCH201)
