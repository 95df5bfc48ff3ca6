"""What tests of the command line share: refusals, commands of a page, a folder of images."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from PIL import Image


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


def write_photos(folder: Path) -> None:
    """Images of two classes, as a user has them."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 20), ("test", 4)):
        for name in ("cat", "dog"):
            (folder / part / name).mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 256, (40, 36, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{index}.png")
