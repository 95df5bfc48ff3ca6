"""The examples of the pages on extending do what their pages say."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from helpers.command_line import SMALLEST
from helpers.runs import SETTINGS, SPACE
from helpers.tiny import table_of, tiny_space

from hwnas.architecture import Mixture
from hwnas.budget.cost import CostModel
from hwnas.config import load_config
from hwnas.data import DATASETS, load_dataset
from hwnas.deploy.export import read_metadata
from hwnas.kernels import CANDIDATE_FUNCTIONS
from hwnas.latency_tables.runtimes import RUNTIMES
from hwnas.latency_tables.table import LatencyTable, OpSpec
from hwnas.ops import OPERATORS
from hwnas.pipeline.profile import profiled_space
from hwnas.spaces import nasbench201
from hwnas.strategies import STRATEGIES
from hwnas.tasks import TASKS, task_of

ROOT = Path(__file__).parents[2]
REGISTRIES = (OPERATORS, CANDIDATE_FUNCTIONS, STRATEGIES, RUNTIMES, TASKS, DATASETS)


def text_of(page: str) -> str:
    return (ROOT / "docs" / page).read_text()


def example(page: str) -> str:
    (code,) = re.findall(r"```python\n(.*?)```", text_of(page), re.DOTALL)
    return code


def test_the_example_of_data_of_one_s_own_can_be_read_from_its_file(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    scope: dict = {}
    exec(example("tasks_and_data.md"), scope)
    made, read = scope["data"], load_dataset("npz", "signals.npz")
    assert (made.task, made.input_shape) == ("signal-classification", (6, 1, 100))
    assert np.array_equal(made.train.inputs, read.train.inputs)
    assert np.array_equal(made.test.targets, read.test.targets)
    assert made.classes == read.classes == ("falling", "rising")


@pytest.fixture
def execute(tmp_path, monkeypatch):
    """Run a page's example in an empty folder; what it registers or replaces is undone."""
    monkeypatch.chdir(tmp_path)
    before = [dict(registry) for registry in REGISTRIES]

    def call(page: str, name: str = "example") -> None:
        exec(compile(example(page), page, "exec"), {"__name__": name})

    yield call
    for registry, known in zip(REGISTRIES, before, strict=True):
        registry.clear()
        registry.update(known)


Execute = Callable[..., None]


@pytest.mark.slow
def test_the_operator_has_one_meaning_and_a_price(execute: Execute, capsys) -> None:
    execute("add_an_operator.md", "__main__")
    counted, *priced = capsys.readouterr().out.splitlines()
    assert counted == "1568 parameters, 1572864 MACs"  # 2 x 3 x 16 x 16, and 32 of the batch norm
    assert counted in text_of("add_an_operator.md")
    assert len(priced) == 2
    table = LatencyTable.load("operators.json")
    assert table.latency_ms(OpSpec("conv_1x3_3x1", 16, 16, 32, 32)) > 0


def test_the_operator_can_be_chosen_in_cells(execute: Execute, monkeypatch) -> None:
    """As the page says: its name is appended to `PRIMITIVES`."""
    execute("add_an_operator.md")
    primitives = (*nasbench201.PRIMITIVES, "conv_1x3_3x1")
    monkeypatch.setattr(nasbench201, "PRIMITIVES", primitives)
    space = tiny_space("nasbench201")
    assert space.size() == 6**6
    weights = (torch.ones(space.mask.shape) / 6).requires_grad_()
    logits = space.supernet()(torch.randn(4, 1, 9, 7), Mixture(weights))
    (gradient,) = torch.autograd.grad(logits.square().sum(), weights)
    assert (gradient[:, -1] != 0).all()
    cost = CostModel(space, table_of(space))
    assert cost.latency_ms(space.architecture([5] * 6)) > cost.fixed_ms


@pytest.mark.slow
def test_the_strategy_keeps_the_contract(tmp_path) -> None:
    """The contract of all strategies, on a tiny space."""
    code = example("add_a_strategy.md")
    assert len(code[: code.index("STRATEGIES[")].strip().splitlines()) < 30
    (tmp_path / "local_search.py").write_text(code)
    line = [sys.executable, "-m", "pytest", "-q", "-p", "local_search", "-p", "no:cacheprovider"]
    line += ["-k", "TestStrategy and local-search and nasbench201", "tests/test_contract.py"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stdout[-3000:]
    assert int(re.findall(r"(\d+) passed", done.stdout)[0]) == 4


def test_the_strategy_finds_what_the_page_shows(execute: Execute, cli) -> None:
    page = text_of("add_a_strategy.md")
    execute("add_a_strategy.md")
    (arguments,) = re.findall(r"^python local_search.py (bench .*)$", page, re.MULTILINE)
    code, printed, err = cli(*arguments.split())
    assert code == 0, err
    assert printed.strip() in page


@pytest.mark.slow
def test_a_table_is_profiled_on_the_runtime(execute: Execute, cli) -> None:
    code = example("add_a_runtime.md")
    assert len(code[: code.index("RUNTIMES[")].strip().splitlines()) < 40
    execute("add_a_runtime.md")
    line = ["profile", "--runtime", "torch-nchw-cpu", "--out", "nchw.json", "--set", SMALLEST]
    code, _, err = cli(*line)
    assert code == 0, err
    table = LatencyTable.load("nchw.json")
    assert (table.device.runtime, table.device.layout) == ("torch-nchw-cpu", "NCHW")
    assert all(row.measurement.rounds > 0 for row in table.operators)


def write_parts(folder: Path) -> Path:
    """Images of which every tenth is broken: bright, among dark ones."""
    rng = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 400), ("test", 100)):
        broken = np.arange(count) % 10 == 0
        pixels = rng.integers(0, 120, (count, 1, 16, 16)) + 120 * broken[:, None, None, None]
        arrays |= {f"x_{part}": pixels.astype(np.uint8), f"y_{part}": broken.astype(np.int64)}
    np.savez(folder / "parts.npz", classes=np.array(["good", "broken"]), **arrays)
    return folder / "parts.npz"


def test_the_task_weighs_classes_alike(execute: Execute, tmp_path) -> None:
    execute("add_a_task.md")
    task = task_of(load_dataset("npz", str(write_parts(tmp_path))))
    assert (task.name, task.metric) == ("balanced-classification", "balanced_accuracy")
    targets = torch.tensor([0] * 9 + [1])
    never = torch.tensor([[1.0, 0.0]]).repeat(10, 1)
    assert task.score([(never, targets)]) == 0.5
    # Nine good parts that are taken for broken cost as much as the broken one.
    losses = [F.cross_entropy(never[:1], torch.tensor([k])) for k in (0, 1)]
    assert task.loss(never, targets) == pytest.approx(float(sum(losses)) / 2)


@pytest.mark.slow
def test_a_run_is_judged_by_the_task(execute: Execute, cli, tmp_path) -> None:
    page = text_of("add_a_task.md")
    execute("add_a_task.md")
    (arguments,) = re.findall(r"^python balanced.py (run .*)$", page, re.MULTILINE)
    write_parts(tmp_path)
    tiny = [*SPACE["nasbench201"], *SETTINGS, "data.name=npz", "data.path=parts.npz"]
    table_of(profiled_space(load_config("nasbench201_slice", tiny))).save(Path("table.json"))
    line = [*arguments.split(), "--table", "table.json"]
    line += [part for setting in tiny for part in ("--set", setting)]
    code, printed, err = cli(*line, "--json")
    assert code == 0, err
    document = json.loads(printed)
    assert document["metric"] == "balanced_accuracy"
    assert document["balanced_accuracy"]["n"] == 100
    assert "balanced_accuracy_drop" in {gate["name"] for gate in document["gates"]}
    model = onnx.load("runs/parts/model.onnx")
    assert read_metadata(model)["task"] == "balanced-classification"
    assert "The balanced accuracy on the test samples" in Path("runs/parts/report.html").read_text()
