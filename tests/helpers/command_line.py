"""What tests of commands share: refusals, a page's commands made tiny, a folder of images."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise
from pathlib import Path

import numpy as np
from helpers.runs import SETTINGS, SPACE
from helpers.tiny import table_of
from PIL import Image

from hwnas.config import load_config, shipped_configs
from hwnas.pipeline.profile import profiled_space


def refused(result: tuple[int, str, str], *words: str) -> None:
    code, out, err = result
    assert code == 2, err
    assert out == ""
    lines = [line for line in err.splitlines() if line.startswith("hwnas: ")]
    assert len(lines) == 1
    assert "Traceback" not in err
    for word in words:
        assert word in lines[0], lines[0]


SMALLEST = "space={name='nasbench201', cells=1, channels=4, classes=2, "
SMALLEST += "input_channels=1, height=8, width=8}"


def commands_of(page: Path) -> list[str]:
    """The lines of a page's `sh` blocks that call hwnas, without their comments."""
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("hwnas ")]


def matching_table(arguments: list[str], folder: Path) -> Path:
    """A made-up table for the space of a command line: measuring one takes half a minute."""
    overrides = [b for a, b in pairwise(arguments) if a == "--set"]
    source = arguments[1] if arguments[1:] and arguments[1] in shipped_configs() else None
    path = folder / f"table-{abs(hash((source, *overrides)))}.json"
    table_of(profiled_space(load_config(source, overrides))).save(path)
    return path


def tiny_space_of(config: str) -> str:
    """The space whose tiny options stand for those of a configuration that ships."""
    space = config.split("_")[0]
    return space if space in SPACE and config in shipped_configs() else "nasbench201"


def tiny_arguments(line: str, folder: Path) -> list[str]:
    """A page's command in a form that takes seconds, with made-up tables.

    Args:
        line: the command as the page has it, from `hwnas` on.
        folder: where commands run; tables and measurements that a command needs are written there.
    """
    arguments = shlex.split(line)[1:]
    if arguments[0] in ("run", "search") and "--resume" not in arguments:
        own = 1 if arguments[1].startswith("-") else 2
        arguments[own:own] = ["--set", *SPACE[tiny_space_of(arguments[1])]]
        tiny = [*SETTINGS, "train.batch_size=8", "search.batch_size=4"]
        tiny += ["data.train_limit=64", "search.steps=6"]
        if "search.finalists" in line:
            # Each finalist is measured.
            tiny.remove("search.max_measured=1")
        arguments += [part for setting in tiny for part in ("--set", setting)]
        if "--table" not in arguments:
            arguments += ["--table", str(matching_table(arguments, folder))]
    if arguments[0] == "profile":
        # Few operators are measured; what follows needs a table of the default space.
        tiny_default = ["--set", *SPACE["nasbench201"]]
        matching_table(tiny_default, folder).rename(folder / "table.json")
        arguments += ["--set", SMALLEST, "--out", "smallest.json"]
    if arguments[0] == "tune":
        arguments += ["--trials", "2", "--evaluations", "12", "--seeds", "2"]
    if arguments[:2] == ["table", "fit"]:
        # Between design and fit the device is measured.
        cells = (folder / "design.csv").read_text().split()[1:]
        lines = [f"{cell},{10 + index}" for index, cell in enumerate(cells)]
        (folder / "measured.csv").write_text("\n".join(["arch,latency_ms", *lines]))
    # The budget of the examples is the user's; here any network keeps it.
    return ["1e6" if a == "0.5" else a for a in arguments]


def write_photos(folder: Path) -> None:
    """Images of two classes, as a user has them."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 20), ("test", 4)):
        for name in ("cat", "dog"):
            (folder / part / name).mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 256, (40, 36, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{index}.png")
