"""The code of docs/your_own_network.md runs, on few samples and with a made-up table."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny import table_of
from torch import nn

import hwnas
from hwnas.spaces.traced.space import space_of

PAGE = (Path(__file__).parents[2] / "docs" / "your_own_network.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
QUICK = {
    "search.steps": 2,
    "search.batch_size": 8,
    "search.candidates": 1,
    "search.max_measured": 1,
    "search.ranking_images": 10,
    "search.recalibration_batches": 1,
    "train.epochs": 1,
    "train.batch_size": 16,
    "latency.measure_seconds": 5.0,
    "check.min_accuracy": 0.001,
    "threads": 1,
}


@pytest.fixture
def page(tmp_path, monkeypatch) -> dict[str, Any]:
    """The names of the page, whose searches are quick ones."""
    names: dict[str, Any] = {"__name__": "page"}
    exec(BLOCKS[0], names)
    space = space_of(names["Network"](10), torch.zeros(1, 1, 28, 28))
    table_of(space).save(tmp_path / "table.json")
    real = hwnas.search

    def search(model: nn.Module, out: str, **given: Any) -> Any:
        given |= {"settings": QUICK, "budget_ms": 1e6, "steps": 2}
        return real(model, tmp_path / out, table=tmp_path / "table.json", **given)

    monkeypatch.setattr(hwnas, "search", search)
    limits = {"train_limit": 60, "test_limit": 20}
    small = hwnas.load_dataset("fashion-mnist-slice", **limits)
    monkeypatch.setattr(hwnas, "load_dataset", lambda name: small)
    return names


def test_the_space_is_as_the_page_says(page, capsys) -> None:
    exec(BLOCKS[1], page)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == ["width", "down", "stage", "kernel", "last"]
    assert lines[-1].startswith("72 networks")


@pytest.mark.slow
def test_the_searches_of_the_page_run(page) -> None:
    for block in BLOCKS[1:]:
        exec(block, page)
    assert page["result"].verdict == "pass"
    assert not any(type(m).__module__.startswith("hwnas") for m in page["network"].modules())


def test_every_part_of_the_package_is_on_the_page() -> None:
    import hwnas.nn

    assert all(f"{name}(" in PAGE for name in hwnas.nn.__all__)
