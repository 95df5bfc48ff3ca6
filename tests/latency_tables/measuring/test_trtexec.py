"""Times exported by trtexec: valid files are read, others are an error of one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hwnas.errors import InputError
from hwnas.latency_tables.measuring.trtexec import is_times, read_times

RECORDED = """[
  { "startEnqMs" : 2.40491, "endEnqMs" : 2.41807
  , "startH2dMs" : 2.41152, "endH2dMs" : 2.50112
  , "startComputeMs" : 2.50112, "endComputeMs" : 3.20205
  , "startD2hMs" : 3.20205, "endD2hMs" : 3.29728
  , "h2dMs" : 0.0896, "computeMs" : 0.700928, "d2hMs" : 0.0952301, "latencyMs" : 0.885759 }
, { "startEnqMs" : 2.5, "endEnqMs" : 2.52
  , "startInMs" : 2.5, "endInMs" : 2.5, "startComputeMs" : 3.3, "endComputeMs" : 4
  , "inMs" : 0, "computeMs" : 0.7, "outMs" : 0, "latencyMs" : 0.7, "endToEndMs" : 1.5 }
]
"""
"""A file with the fields of a newer and of an older version of trtexec."""


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_the_latency_of_each_inference(tmp_path) -> None:
    path = written(tmp_path / "times.json", RECORDED)
    assert is_times(path)
    assert read_times(path) == (0.885759, 0.7)


def test_the_results_of_a_bundle_are_not_times_of_trtexec(tmp_path) -> None:
    assert not is_times(written(tmp_path / "results.json", json.dumps({"rounds_ms": []})))


def changed(**fields: object) -> str:
    good = {"startEnqMs": 1.0, "endEnqMs": 1.1, "computeMs": 0.5, "latencyMs": 0.75}
    kept = {key: value for key, value in (good | fields).items() if value is not None}
    return json.dumps([good, kept])


@pytest.mark.parametrize(
    "text, words",
    [
        ("[]", ["at least 1 item"]),
        (RECORDED[:-20], ["not a complete JSON file"]),
        ("[1.5]", ["times.json: 0:", "object"]),
        (changed(latencyMs=None), ["1: latencyMs", "required"]),
        (changed(computeMs=None), ["1: computeMs", "required"]),
        (changed(startEnqMs=None), ["1: startEnqMs", "required"]),
        (changed(latencyMs="0.75"), ["1: latencyMs", "number"]),
        (changed(latencyMs=True), ["1: latencyMs", "number"]),
        (changed(latencyMs=0.0), ["1: latencyMs", "greater than 0"]),
        (changed(latencyMs=float("nan")), ["1: latencyMs", "finite"]),
        (changed(h2dMs=float("inf")), ["1: h2dMs", "finite"]),
        (changed(d2hMs="long"), ["1: d2hMs", "number"]),
        (changed(computeMs=-1.0), ["1: computeMs", "greater than or equal to 0"]),
        (changed(computeMs=0.8), ["computeMs is greater than latencyMs"]),
        (changed(endEnqMs=0.5), ["endEnqMs is before startEnqMs"]),
        (RECORDED.replace("endInMs", "startInMs"), ["twice", "startInMs"]),
    ],
)
def test_files_that_trtexec_does_not_write_are_refused(tmp_path, text, words) -> None:
    with pytest.raises(InputError) as refusal:
        read_times(written(tmp_path / "times.json", text))
    line = str(refusal.value)
    assert len(line.splitlines()) == 1
    assert all(word in line for word in ["times.json", *words])
