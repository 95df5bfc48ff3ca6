"""Checkpoints that survive a crash at any write.

A checkpoint is a directory: `state.json` (numbers, text, structure), `tensors.safetensors`, and
`manifest.json` with the sha256 of both. It is written under a temporary name, synced and renamed,
so a directory with its final name is complete; the hashes tell when the disk changed it later.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from pathlib import Path
from typing import Any

from hwnas.durable import sync_folder, write_synced
from hwnas.errors import HwnasError

logger = logging.getLogger(__name__)

KEPT = 2
FILES = ("state.json", "tensors.safetensors")


def save_checkpoint(folder: Path, stage: str, step: int, state: dict[str, Any]) -> None:
    """Write `folder/<stage>-<step>` and remove all but the newest two of the stage.

    Args:
        folder: the run's checkpoints.
        stage: `search` or `train`.
        step: steps done.
        state: nested dicts and lists of tensors, numbers, strings, booleans and None.
    """
    from safetensors.torch import save

    tensors: dict[str, Any] = {}
    structure = _split(state, "state", tensors)
    final = folder / f"{stage}-{step:08d}"
    temporary = folder / f".{final.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    contents = {
        "state.json": json.dumps(structure).encode(),
        "tensors.safetensors": save({k: v.contiguous() for k, v in tensors.items()}),
    }
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
    contents["manifest.json"] = json.dumps({"schema": 1, "step": step, "sha256": hashes}).encode()
    try:
        for name, data in contents.items():
            write_synced(temporary / name, data)
    except OSError:
        # On a full disk nothing may be left that takes its space.
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(temporary)
    shutil.rmtree(final, ignore_errors=True)
    temporary.replace(final)
    sync_folder(folder)
    for old in _checkpoints(folder, stage)[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)


def load_checkpoint(folder: Path, stage: str) -> tuple[int, dict[str, Any]] | None:
    """The newest complete checkpoint of a stage as (step, state), or None if there is none.

    Damaged checkpoints are skipped with a warning.
    """
    for leftover in folder.glob(f".{stage}-*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)
    for path in reversed(_checkpoints(folder, stage)):
        try:
            return _load(path)
        except (OSError, ValueError, KeyError, HwnasError) as error:
            logger.warning("skipping damaged checkpoint %s: %s", path, error)
    return None


def remove_checkpoints(folder: Path, stage: str) -> None:
    """Delete a stage's checkpoints."""
    for path in _checkpoints(folder, stage):
        shutil.rmtree(path, ignore_errors=True)


def _checkpoints(folder: Path, stage: str) -> list[Path]:
    return sorted(folder.glob(f"{stage}-[0-9]*"))


def _load(path: Path) -> tuple[int, dict[str, Any]]:
    from safetensors.torch import load

    manifest = json.loads((path / "manifest.json").read_text("utf-8"))
    contents = {name: (path / name).read_bytes() for name in FILES}
    for name, data in contents.items():
        if hashlib.sha256(data).hexdigest() != manifest["sha256"][name]:
            raise HwnasError(f"{name} has changed since it was written")
    tensors = load(contents["tensors.safetensors"])
    return manifest["step"], _join(json.loads(contents["state.json"]), tensors)


def _split(value: Any, key: str, tensors: dict[str, Any]) -> Any:
    """Replace tensors by references; dicts become lists of pairs, so that keys keep their type."""
    from torch import Tensor

    if isinstance(value, Tensor):
        tensors[key] = value.detach()
        return {"tensor": key}
    if isinstance(value, dict):
        return {"dict": [[k, _split(v, f"{key}.{k}", tensors)] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        return [_split(v, f"{key}.{i}", tensors) for i, v in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{key}: cannot checkpoint a {type(value).__name__}")


def _join(value: Any, tensors: dict[str, Any]) -> Any:
    if isinstance(value, list):
        return [_join(v, tensors) for v in value]
    if isinstance(value, dict):
        if "tensor" in value:
            return tensors[value["tensor"]]
        return {k: _join(v, tensors) for k, v in value["dict"]}
    return value
