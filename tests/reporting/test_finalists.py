"""The table of finalists in a report."""

from __future__ import annotations

import json

from helpers.run_folders import WrittenRun


def add_finalists(run: WrittenRun, gain: float = 0.012) -> None:
    """Give every measured candidate a first round, and the first of them a second one."""
    records = [json.loads(line) for line in run.folder.history.read_text().splitlines()]
    candidates = [r["choices"] for r in records if r["event"] == "measurement"]
    for place, choices in enumerate(candidates):
        record = {"event": "finalists", "step": place + 1, "rung": 0, "choices": choices}
        run.folder.append_history({**record, "score": 0.81 - 0.1 * place})
    last = {"event": "finalists", "step": 9, "rung": 1, "choices": candidates[0], "score": 0.85}
    run.folder.append_history({**last, "score_per_doubling": gain, "trust": 0.6})


def test_finalists_have_a_row_with_their_scores_by_round(run: WrittenRun) -> None:
    add_finalists(run)
    page = run.page()
    assert "accuracy after round 1 accuracy after round 2" in page.text
    assert "81 % 85 %" in page.text.replace("\xa0", " ")
    assert "scored 1.2 points more. 60 %" in page.text.replace("\xa0", " ")


def test_a_search_without_finalists_says_nothing_of_them(run: WrittenRun) -> None:
    assert "Finalists" not in run.html()


def test_damaged_records_of_finalists_are_left_out(run: WrittenRun) -> None:
    run.folder.append_history({"event": "finalists", "rung": "x", "choices": 7, "score": []})
    run.folder.append_history({"event": "finalists", "rung": 0, "score": 0.5})
    assert "50" in run.page().text
