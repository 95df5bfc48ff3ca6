"""Helpers for tests of datasets: images, sounds, damaged files, and checks of messages."""

from __future__ import annotations

import contextlib
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from hwnas.data import Dataset, Split, load_dataset
from hwnas.data.sounds import RATE
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
    """Return a dataset that labels each sample with its own index, which reveals the order."""
    split = Split(pixels(count, channels, side, side), np.arange(count))
    return Dataset("numbered", tuple(map(str, range(count))), split, split)


def save_csvs(folder: Path, train: str, test: str) -> str:
    """Write train.csv and test.csv; lone surrogates become bytes that are not UTF-8."""
    for name, content in (("train", train), ("test", test)):
        (folder / f"{name}.csv").write_text(content, "utf-8", "surrogatepass")
    return str(folder)


def save_wav(path: Path, sound: np.ndarray, rate: int = RATE, width: int = 2) -> Path:
    """Save `sound`, (samples,) or (samples, channels) in -1..1, with `width` bytes per sample."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.atleast_2d(sound.T).T
    if width == 1:
        stored = np.round(values * 127 + 128).astype(np.uint8)
    else:
        stored = np.round(values * (2 ** (8 * width - 1) - 1)).astype(f"<i{width}")
    with wave.open(str(path), "wb") as file:
        file.setparams((values.shape[1], width, rate, len(values), "NONE", ""))
        file.writeframes(stored.tobytes())
    return path


class Touch:
    """An object whose pickle creates a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def loads_or_is_refused(name: str, path: Path) -> None:
    """Check that loading raises nothing but InputError.

    Damage can go unnoticed in formats without a checksum, so a successful load is accepted.
    """
    with contextlib.suppress(InputError):
        load_dataset(name, str(path))


def damaged(content: bytes, draw: st.DataObject) -> bytes:
    """Change up to three bytes and possibly truncate the content."""
    changed = bytearray(content)
    for _ in range(draw.draw(st.integers(0, 3))):
        position = draw.draw(st.integers(0, len(content) - 1))
        changed[position] = draw.draw(st.integers(0, 255))
    return bytes(changed[: draw.draw(st.integers(0, len(content)))])
