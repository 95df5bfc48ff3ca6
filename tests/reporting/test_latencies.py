"""Predicted and profiled shares of the latency, and the audit of the table, in a report."""

from __future__ import annotations

import json

import pytest
from helpers.run_folders import HOSTILE, WrittenRun, change

from hwnas.reporting.formatting import number


def test_share_of_time_spent_in_other_parts_than_predicted(run: WrittenRun) -> None:
    total_ms = sum(run.latencies.values())
    choice = run.space.choices[0].name
    shares = {"fixed": run.latencies["fixed"] / total_ms}
    shares[choice] = 1 - shares["fixed"]
    change(run.folder.operator_shares, lambda document: document.update(shares=shares))
    moved = 1 - shares["fixed"] - run.latencies[choice] / total_ms
    expected = f"{number(round(100 * moved, 2))} % of the time is spent in other parts"
    assert expected in run.page().text


def test_shares_by_operator_type_have_a_table_of_their_own(run: WrittenRun) -> None:
    shares = {"by": "operator type", "shares": {"Conv": 0.75, HOSTILE: 0.25}}
    change(run.folder.operator_shares, lambda document: document.update(shares))
    text = run.page().text
    assert "known by operator type only, not by choice" in text
    assert "Conv 75 %" in text
    assert "profiled share " not in text


def test_report_without_a_profile_says_so(run: WrittenRun) -> None:
    run.folder.operator_shares.unlink()
    assert "The exported model was not profiled" in run.page().text


@pytest.mark.parametrize("macs, is_better", [(0.6, False), (0.9, True)])
def test_report_warns_where_counting_operations_ranks_better(
    each_run: WrittenRun, macs: float, is_better: bool
) -> None:
    controls = {"macs": {"spearman": macs}, "params": {"kendall": 0.5, "spearman": 0.7}}
    audit = {"networks": 20, "spearman": 0.8, "median_error": 0.04, **controls}
    each_run.folder.latency_table.write_text(json.dumps({"schema": 1, "audit": audit}))
    text = each_run.page().text
    assert (
        "The audit of the latency table on 20 measured networks gave a rank correlation of 0.8 "
        "(Spearman) and a median error of 4 %." in text
    )
    assert ("do not trust this table" in text) == is_better


def test_commands_are_marked_as_code(run: WrittenRun) -> None:
    assert "not been audited: <code>hwnas table audit</code> compares" in run.html()
    assert "`" not in run.page().text
