"""The examples of the pages on extending do what their pages say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny import table_of, tiny_space

from hwnas.architecture import Mixture
from hwnas.budget.cost import CostModel
from hwnas.kernels import CANDIDATE_FUNCTIONS
from hwnas.latency_tables.table import LatencyTable, OpSpec
from hwnas.ops import OPERATORS
from hwnas.spaces import nasbench201

ROOT = Path(__file__).parents[2]
Run = Callable[..., str]


def example(page: str) -> str:
    (code,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "hwnas" / "docs" / page).read_text(), re.DOTALL
    )
    return code


@pytest.fixture
def run(tmp_path) -> Run:
    """Write a page's example under its name and run Python in a folder: what it prints."""

    def call(page: str, name: str, *arguments: str, folder: Path = tmp_path) -> str:
        (tmp_path / name).write_text(example(page))
        environment = os.environ | {"PYTHONPATH": str(tmp_path)}
        line = [sys.executable, *arguments]
        done = subprocess.run(line, capture_output=True, text=True, cwd=folder, env=environment)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr
        return done.stdout

    return call


def test_the_operator_is_the_same_in_both_definitions_and_has_a_price(run, tmp_path) -> None:
    printed = run("add_an_operator.md", "factorized_conv.py", "factorized_conv.py")
    assert "1568 parameters, 1572864 MACs" in printed  # 2 x 3 x 16 x 16 and 32 of the norm
    table = LatencyTable.load(tmp_path / "operators.json")
    assert table.latency_ms(OpSpec("conv_1x3_3x1", 16, 16, 32, 32)) > 0


def test_the_operator_can_be_searched_in_cells(monkeypatch) -> None:
    """As the page says: its name is appended to `PRIMITIVES`."""
    for registry in (OPERATORS, CANDIDATE_FUNCTIONS):
        monkeypatch.setitem(registry, "conv_1x3_3x1", None)  # taken out again afterwards
    exec(compile(example("add_an_operator.md"), "factorized_conv.py", "exec"), {"__name__": ""})
    primitives = (*nasbench201.PRIMITIVES, "conv_1x3_3x1")
    monkeypatch.setattr(nasbench201, "PRIMITIVES", primitives)
    space = tiny_space("nasbench201")
    assert space.size() == 6**6
    supernet = space.supernet()
    weights = (torch.ones(space.mask.shape) / 6).requires_grad_()
    with pytest.warns(UserWarning, match="no kernels for conv_1x3_3x1"):
        logits = supernet(torch.randn(4, 1, 9, 7), Mixture(weights))
    logits.square().sum().backward()
    assert (weights.grad[:, -1] != 0).all()
    cost = CostModel(space, table_of(space))
    architecture = space.architecture([5] * 6)
    assert cost.latency_ms(architecture) > cost.fixed_ms


def test_the_strategy_keeps_the_contract(run) -> None:
    """The contract of all strategies, on a tiny space."""
    code = example("add_a_strategy.md")
    assert len(code[: code.index("STRATEGIES[")].strip().splitlines()) < 30
    line = ["-m", "pytest", "-q", "-p", "local_search", "-p", "no:cacheprovider"]
    line += ["-k", "TestStrategy and local-search-nasbench201", "tests/test_contract.py"]
    printed = run("add_a_strategy.md", "local_search.py", *line, folder=ROOT)
    assert int(re.findall(r"(\d+) passed", printed)[0]) >= 4


def test_the_strategy_s_command_prints_what_the_page_shows(run) -> None:
    page = (ROOT / "hwnas" / "docs" / "add_a_strategy.md").read_text()
    (command,) = re.findall(r"^python (local_search.py bench .*)$", page, re.MULTILINE)
    printed = run("add_a_strategy.md", "local_search.py", *command.split())
    assert printed.strip() in page


def test_a_table_is_profiled_on_the_runtime(run, tmp_path) -> None:
    assert len(example("add_a_runtime.md").splitlines()) < 50
    space = "space={name='nasbench201', cells=1, channels=4, classes=2, "
    space += "input_channels=1, height=8, width=8}"
    line = ["torch_nchw.py", "profile", "--runtime", "torch-nchw-cpu", "--out", "nchw.json"]
    run("add_a_runtime.md", "torch_nchw.py", *line, "--set", space)
    table = LatencyTable.load(tmp_path / "nchw.json")
    assert (table.device.runtime, table.device.layout) == ("torch-nchw-cpu", "NCHW")
    assert all(row.measurement.rounds > 0 for row in table.operators)
