"""The gates of a check as a report shows them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from helpers.run_folders import page_of_edited_check

from hwnas.reporting.checks import GATES


def test_every_gate_has_a_unit_and_a_requirement(tmp_path: Path) -> None:
    gates = [
        ("energy", 2.5, 3.0), ("parity", 1e-6, None), ("parity: unoptimised", 2e-6, None),
        ("agreement: onnxruntime-cuda", 1.0, 1.0), ("accuracy", 0.87, 0.0),
    ]  # fmt: skip

    def edit(check: dict[str, Any]) -> None:
        check["gates"] = [
            {"name": name, "status": "pass", "value": value, "limit": limit}
            for name, value, limit in gates
        ]

    text = page_of_edited_check(tmp_path, edit).text
    for words in (
        "energy pass 2.5 3 energy per inference in mJ: at most the limit",
        "difference from the outputs before the export: within the tolerance",
        "difference from the outputs without the runtime's graph optimisation: within the",
        "samples with the same predicted class as on onnxruntime-cuda: at least the limit",
        "accuracy pass 87 % \u2013 accuracy on the test samples: no minimum is configured",
    ):
        assert words in text, words
    assert GATES.keys() >= {"placement", "memory", "serving_errors", "memory_growth"}


def test_exact_outputs_have_no_error(tmp_path: Path) -> None:
    def edit(check: dict[str, Any]) -> None:
        check["parity"].update(max_abs_error=0.0, sqnr_db=None)

    assert "SQNR of the outputs no error" in page_of_edited_check(tmp_path, edit).text


def test_drift_of_the_machine_and_the_sessions_are_stated(tmp_path: Path) -> None:
    def edit(check: dict[str, Any]) -> None:
        speed = {"reference": "r", "reference_ms": 0.12, "recorded_ms": 0.1, "drift": 1.2}
        check["measured"] |= {"sessions_ms": [0.4, 0.42, 0.5], "spread": 0.03, "speed": speed}

    text = page_of_edited_check(tmp_path, edit).text
    assert "The machine was 20% slower than recorded: the speed reference took 0.12 ms" in text
    assert "the median of 3 sessions, which differ by a standard deviation of 3 %" in text


def test_check_of_an_earlier_version_states_no_drift(tmp_path: Path) -> None:
    text = page_of_edited_check(tmp_path, lambda check: None).text
    assert "speed reference" not in text
    assert "sessions, which differ" not in text
