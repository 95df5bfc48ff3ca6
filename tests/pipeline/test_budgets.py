"""Whole runs with several budgets, several devices, and a device that is not here."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers.runs import settings, table_file

from hwnas.budget.cost import CostModel
from hwnas.calibration.make import all_cells, fitted_table
from hwnas.calibration.networks import write_networks
from hwnas.calibration.prior import from_counts
from hwnas.config import load_config
from hwnas.errors import InputError
from hwnas.latency_tables.table import LatencyTable
from hwnas.pipeline import table as table_stage
from hwnas.pipeline.profile import profiled_space
from hwnas.pipeline.run import Run
from hwnas.pipeline.stages import run


def gates(document: dict) -> dict[str, dict]:
    return {gate["name"]: gate for gate in document["gates"]}


@pytest.fixture
def slow_device(tmp_path):
    """A table of ten networks and the latencies of all, on a device about 50 times as slow."""
    space = profiled_space(load_config(None, settings("nasbench201")))
    cost = CostModel(space, LatencyTable.load(table_file("nasbench201", tmp_path)))
    cells = all_cells(space)
    rng = np.random.default_rng(0)
    latency_ms = 50 * cost.predict(cells)[0] * (1 + 0.05 * rng.normal(size=len(cells)))
    write_networks(tmp_path / "all.csv", space, cells, {"latency_ms": latency_ms.tolist()})
    known = rng.choice(len(cells), 10, replace=False)
    table = fitted_table(
        space, from_counts(space), [cells[i] for i in known], latency_ms[known], "slow device"
    )
    table.save(tmp_path / "slow.json")
    return space, dict(zip(cells, latency_ms.tolist(), strict=True)), float(np.median(latency_ms))


def test_a_file_of_latencies_stands_for_a_device(slow_device, tmp_path) -> None:
    _, latency_ms, budget_ms = slow_device
    config = load_config(
        None,
        settings(
            "nasbench201",
            f"latency.device_measurements={tmp_path / 'all.csv'}",
            f"budget.ms={budget_ms}",
            "budget.confidence=0.8",
            "search.max_measured=6",
        ),
    )
    with pytest.raises(InputError, match="give its table with --table"):
        run(config, tmp_path / "without")
    document = run(config, tmp_path / "run", table=tmp_path / "slow.json")
    assert document["verdict"] == "pass"
    assert document["measured"]["rounds"] == 0
    assert document["measured"]["value_ms"] <= budget_ms
    assert document["measured"]["value_ms"] in {float(f"{v:.6g}") for v in latency_ms.values()}
    confidence = gates(document)["budget_confidence"]
    assert confidence["limit"] == 0.8
    assert confidence["value"] >= 0.8


@pytest.mark.slow
def test_a_family_has_one_model_a_budget(tmp_path) -> None:
    table = table_file("darts", tmp_path)
    config = load_config(None, settings("darts", "budget.family_ms=[9e5]", "budget.memory_mb=500"))
    document = run(config, tmp_path / "run", table=table)
    (member,) = document["family"]
    memory = gates(document)["memory"]
    assert memory["status"] == "pass"
    assert 0.1 < memory["value"] == document["memory_mb"] < 500
    check = json.loads((tmp_path / "run/family/900000ms/check.json").read_text())
    assert check["verdict"] == member["verdict"] == "pass"
    assert check["budget_ms"] == member["budget_ms"] == 9e5
    front = (tmp_path / "run" / "front.html").read_text()
    assert '"./report.html"' in front
    assert '"./family/900000ms/report.html"' in front
    report = (tmp_path / "run" / "report.html").read_text()
    assert "Pareto-optimal runs, fastest first" in report


def test_a_family_needs_no_table_of_its_own(tmp_path, monkeypatch) -> None:
    """A table that is measured by the run itself is handed on to all members."""
    table = table_file("darts", tmp_path)
    monkeypatch.setattr(
        table_stage, "profile", lambda config, out, **_: LatencyTable.load(table).save(out)
    )
    config = load_config(None, settings("darts", "budget.family_ms=[9e5]"))
    current = Run.start(config, tmp_path / "run", resume=False)
    current.begin()
    table_stage.prepare_table(current, None)
    (member,) = current.family
    assert member.target.budget_ms() == 9e5


@pytest.mark.parametrize(
    "change, is_loose", [("budget.ms=1e6", True), ("budget.fraction=0.5", False)]
)
def test_a_budget_that_rules_out_no_network_is_told(tmp_path, change, is_loose) -> None:
    config = load_config(None, settings("nasbench201", change))
    current = Run.start(config, tmp_path / "run", resume=False)
    current.begin()
    table_stage.prepare_table(current, table_file("nasbench201", tmp_path))
    note = current.target.loose_budget()
    if not is_loose:
        assert note is None
        assert current.target.loose_budget(current.target.latency_range_ms[1]) is not None
        return
    assert note is not None
    assert note.startswith("the latency budget of 1,000,000 ms rules out no network")
    assert f"{current.target.latency_range_ms[1]:.4g} ms; state a smaller budget" in note


def test_an_unreachable_member_is_refused_before_training(tmp_path) -> None:
    table = table_file("darts", tmp_path)
    config = load_config(None, settings("darts", "budget.family_ms=[1e-6]"))
    with pytest.raises(InputError, match="no architecture keeps the budget"):
        run(config, tmp_path / "run", table=table)
    assert not (tmp_path / "run").exists()


def test_every_device_keeps_its_budget(slow_device, tmp_path) -> None:
    space, _, budget_ms = slow_device
    slow = CostModel(space, LatencyTable.load(tmp_path / "slow.json"))
    config = load_config(
        None,
        settings(
            "nasbench201",
            f"devices=[{{table='{tmp_path / 'slow.json'}', budget_ms={budget_ms}}}]",
        ),
    )
    document = run(config, tmp_path / "run", table=table_file("nasbench201", tmp_path))
    assert document["verdict"] == "pass"
    (note,) = document["notes"]
    assert "rules out no network" in note
    stated = json.loads((tmp_path / "run" / "architecture.json").read_text())
    chosen = space.architecture(stated["choices"])
    assert slow.latency_ms(chosen) <= budget_ms * (1 + 1e-6)
    assert (tmp_path / "run" / "latency_table_2.json").exists()
    gate = gates(document)["budget: slow device"]
    assert gate["status"] == "pass"
    assert gate["value"] == pytest.approx(slow.latency_ms(chosen))
