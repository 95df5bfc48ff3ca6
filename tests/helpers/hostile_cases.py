"""A collection of files that the inspection must refuse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from onnx import ModelProto


class HostileCases(dict[str, tuple[Callable[[Path], Path], tuple[str, ...]]]):
    """For each case, a function that writes the file into a folder, and words of the refusal."""

    def refused(self, *words: str) -> Callable:
        """Add the builder of a file whose refusal contains these words.

        The builder gets a folder and returns a path, the bytes of a model, or a model.
        """

        def register(build: Callable) -> Callable:
            def write(folder: Path) -> Path:
                made = build(folder)
                if isinstance(made, Path):
                    return made
                path = folder / "bad.onnx"
                path.write_bytes(made.SerializeToString() if isinstance(made, ModelProto) else made)
                return path

            self[build.__name__] = (write, words)
            return build

        return register
