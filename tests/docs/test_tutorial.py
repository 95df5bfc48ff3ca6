"""The tutorial's commands run as they stand, on a folder of small images and tiny settings."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

from test_cli import cli, commands_of, write_photos

from hwnas.config import load_config

__all__ = ["cli"]

TUTORIAL = Path(__file__).parents[2] / "hwnas" / "docs" / "tutorial.md"
TINY = [
    "data.image_size=8",
    "space.channels=4",
    "budget.ms=1e6",
    "latency.measure_seconds=2",
    "search.steps=4",
    "search.batch_size=4",
    "search.candidates=2",
    "search.max_measured=1",
    "search.ranking_images=8",
    "search.recalibration_batches=1",
    "train.epochs=1",
    "train.batch_size=8",
    "check.measure_seconds=5",
]


def test_the_tutorial_ends_with_checked_models_and_a_report(cli, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_photos(tmp_path / "photos")
    (text,) = re.findall(r"```toml\n(.*?)```", TUTORIAL.read_text(), re.DOTALL)
    (tmp_path / "photos.toml").write_text(text)
    tiny = load_config("photos.toml", TINY)
    (tmp_path / "photos.toml").write_text(tiny.to_toml())
    verbs = []
    for line in commands_of(TUTORIAL):
        verb, *arguments = shlex.split(line)[1:]
        code, _, err = cli(verb, *arguments)
        assert code == 0, f"{line}: {err}"
        verbs.append(verb)
    stages = ["profile", "search", "train", "export", "check", "export", "report"]
    assert [verb for verb in verbs if verb in stages] == stages
    folder = tmp_path / "runs" / "photos"
    assert json.loads((folder / "check.json").read_text())["verdict"] == "pass"
    variants = json.loads((folder / "variants" / "variants.json").read_text())["variants"]
    assert set(variants) == {"fp32", "int8"} and variants["int8"]["error"] is None
    assert (folder / "report.html").exists()
