"""External data: they are found through symbolic links, and changes to them are detected."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.unchecked_models import external

from hwnas.errors import InputError
from hwnas.inspection.process import inspect_model
from hwnas.latency_tables.runtimes import OnnxRuntimeCpu


def weights(value: float) -> bytes:
    return np.full(4, value, np.float32).tobytes()


def written(folder: Path, value: float) -> Path:
    """A model that adds `value`, which is stored in a file beside it."""
    folder.mkdir()
    (folder / "weights").write_bytes(weights(value))
    path = folder / "model.onnx"
    path.write_bytes(external(folder, "weights").SerializeToString())
    return path


def added(path: Path) -> float:
    """What the runtime adds when it loads the model from the path that the inspection returns."""
    run = OnnxRuntimeCpu(1).infer(inspect_model(path).path)
    return run({"x": np.zeros((1, 4), np.float32)})["y"][0, 0]


def test_data_are_found_by_links_into_a_folder_of_blobs(tmp_path) -> None:
    """The layout of Hugging Face's cache: links to files that are named by their hash."""
    path = written(tmp_path / "blobs", 2.0)
    path.rename(tmp_path / "blobs" / "aaa")
    (tmp_path / "blobs" / "weights").rename(tmp_path / "blobs" / "bbb")
    snapshot = tmp_path / "snapshots" / "main"
    snapshot.mkdir(parents=True)
    (snapshot / "model.onnx").symlink_to("../../blobs/aaa")
    (snapshot / "weights").symlink_to("../../blobs/bbb")
    assert inspect_model(snapshot / "model.onnx").path == snapshot / "model.onnx"
    assert added(snapshot / "model.onnx") == 2.0


def test_data_are_found_beside_the_link_or_else_beside_its_target(tmp_path) -> None:
    path = written(tmp_path / "real", 2.0)
    folder = tmp_path / "links"
    folder.mkdir()
    (folder / "model.onnx").symlink_to(path)
    assert added(folder / "model.onnx") == 2.0
    # A runtime reads the data beside the given path.
    (folder / "weights").write_bytes(weights(3.0))
    assert added(folder / "model.onnx") == 3.0


def test_files_that_changed_after_the_inspection_are_refused(tmp_path) -> None:
    path = written(tmp_path / "model", 2.0)
    found = inspect_model(path)
    assert list(found.external_files) == ["weights"]
    found.require_unchanged()
    (path.parent / "weights").write_bytes(weights(3.0))
    with pytest.raises(InputError, match="weights: changed since it was inspected"):
        found.require_unchanged()
    (path.parent / "weights").unlink()
    with pytest.raises(InputError, match="weights: cannot be read"):
        found.require_unchanged()
    (path.parent / "weights").write_bytes(weights(2.0))
    found.require_unchanged()
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(InputError, match="model.onnx: changed since it was inspected"):
        found.require_unchanged()
