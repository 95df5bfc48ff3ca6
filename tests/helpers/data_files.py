"""What the tests of datasets share: made-up images, damage, and the check of a refusal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from hwnas.data import Dataset, Split, load_dataset
from hwnas.errors import InputError

fuzz = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def refusal(call: Callable[..., Any], *args: Any, **options: Any) -> str:
    """Return the message of the InputError that the call has to raise: one line."""
    with pytest.raises(InputError) as caught:
        call(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def pixels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def numbered(count: int, channels: int = 1, side: int = 6) -> Dataset:
    """A dataset whose labels are the sample's own number, so that orders can be read off."""
    split = Split(pixels(count, channels, side, side), np.arange(count))
    return Dataset("numbered", tuple(map(str, range(count))), split, split)


class Touch:
    """A pickle of this creates a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def loads_or_is_refused(name: str, path: Path) -> None:
    """Damage may go unnoticed where a format has no checksum, but nothing else may be raised."""
    try:
        load_dataset(name, str(path))
    except InputError:
        pass


def damaged(content: bytes, draw: st.DataObject) -> bytes:
    """Flip some bytes and perhaps cut the end off."""
    changed = bytearray(content)
    for _ in range(draw.draw(st.integers(0, 3))):
        position = draw.draw(st.integers(0, len(content) - 1))
        changed[position] = draw.draw(st.integers(0, 255))
    return bytes(changed[: draw.draw(st.integers(0, len(content)))])
