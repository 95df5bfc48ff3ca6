"""The example of docs/add_a_space.md keeps what the page says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.runs import SETTINGS, finish

import hwnas
from hwnas.config import load_config
from hwnas.errors import InputError
from hwnas.spaces.mbconv import MbconvSpace

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "add_a_space.md").read_text()
SETTING = "space={name='fire', channels=4, stages=2, layers=2}"


@pytest.fixture
def example(tmp_path) -> Path:
    """The page's module."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    path = tmp_path / "fire.py"
    path.write_text(code)
    return path


def in_its_folder(example: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(example.parent)}
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, cwd=ROOT, env=environment
    )


def test_the_example_is_short(example) -> None:
    assert len(example.read_text().splitlines()) < 120


def test_the_example_keeps_the_contract_of_spaces(example) -> None:
    """The contract tests on the example alone, with one strategy by gradient and one by draws."""
    chosen = "fire and (not TestStrategy or fire-gdas or fire-spos)"
    done = in_its_folder(
        example, "-m", "pytest", "-q", "-p", "fire", "-k", chosen, "tests/test_contract.py"
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= 20


@pytest.mark.slow
def test_the_example_is_a_command_line_that_runs(example, tmp_path) -> None:
    out = tmp_path / "run"
    made = in_its_folder(
        example,
        "-c",
        "import sys, fire\n"
        "from hwnas.config import load_config\n"
        "from hwnas.pipeline.profile import profiled_space\n"
        f"sys.path.insert(0, {str(ROOT / 'tests')!r})\n"
        "from helpers.tiny import table_of\n"
        f"space = profiled_space(load_config('mbconv_slice', {[*SETTINGS, SETTING]!r}))\n"
        f"table_of(space).save({str(tmp_path / 'table.json')!r})",
    )
    assert made.returncode == 0, made.stderr
    table = str(tmp_path / "table.json")
    line = [sys.executable, str(example), "run", "mbconv_slice", "--json"]
    line += ["--table", table, "--out", str(out)]
    for setting in [*SETTINGS, SETTING]:
        line += ["--set", setting]
    assert finish(line)["verdict"] == "pass"
    assert (out / "report.html").exists()


def test_two_spaces_cannot_have_one_name() -> None:
    with pytest.raises(InputError, match="registered.*mbconv"):
        hwnas.register_space(MbconvSpace)


def test_the_page_s_commands_run(cli, tmp_path, monkeypatch) -> None:
    """Those on the shipped file but for the run, which `macro_slice` is."""
    shipped = ROOT / "hwnas" / "spaces" / "macro_example.toml"
    (tmp_path / "SPACE.toml").write_text(shipped.read_text())
    monkeypatch.chdir(tmp_path)
    block = re.search(r"```sh\n(hwnas space.*?)```", PAGE, re.DOTALL)[1]
    lines = [line.split("#")[0].split() for line in block.splitlines()]
    assert [line[1] for line in lines] == ["space", "space", "space", "run"]
    for line in lines[:3]:
        code, out, _ = cli(*line[1:])
        assert code == 0
        assert out
    assert load_config(lines[3][2], [lines[3][4]]).space == load_config("macro_slice").space
