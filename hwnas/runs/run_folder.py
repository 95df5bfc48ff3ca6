"""The folder of a run: which file is where, its history, its lock, the stamp of its environment."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import json
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from hwnas.durable import append_lines, make_folder, write_atomic
from hwnas.errors import InputError

STAMPED_PACKAGES = (
    "hwnas",
    "torch",
    "triton",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "numpy",
)


class RunFolder:
    """Paths of a run's files, and reading and writing them.

    Attributes:
        path: the folder.
        is_new: whether `create` made it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.is_new = False
        self.config = self.path / "config.toml"
        self.environment = self.path / "environment.json"
        self.latency_table = self.path / "latency_table.json"
        self.preprocessing = self.path / "preprocessing.json"
        self.partial_table = self.path / "latency_table.partial.json"
        self.history = self.path / "history.jsonl"
        self.knowledge = self.path / "knowledge.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.architecture = self.path / "architecture.json"
        self.inherited = self.path / "inherited.safetensors"
        self.formats = self.path / "formats.json"
        self.weights = self.path / "weights.safetensors"
        self.metrics = self.path / "metrics.json"
        self.predictions = self.path / "predictions.npz"
        self.samples = self.path / "samples.npz"
        self.recipe = self.path / "recipe.json"
        self.training_samples = self.path / "training_samples.npz"
        self.generated_images = self.path / "generated_images.npz"
        self.model = self.path / "model.onnx"
        self.check = self.path / "check.json"
        self.variants = self.path / "variants"
        self.variants_document = self.variants / "variants.json"
        self.microcontroller = self.path / "microcontroller"
        self.microcontroller_sizes = self.microcontroller / "sizes.json"
        self.controls = self.path / "controls"
        self.controls_document = self.path / "controls.json"
        self.operator_shares = self.path / "operator_shares.json"
        self.explanation = self.path / "explanation.json"
        self.attributions = self.path / "attributions.npz"
        self.diagnosis = self.path / "diagnosis.json"
        self.report = self.path / "report.html"
        self.front = self.path / "front.html"
        self.model_card = self.path / "model_card.md"
        self.heartbeat = self.path / ".progress.json"
        self.launch = self.path / ".launch"
        self.temporary = self.path / ".temporary"

    def device_tables(self, devices: int) -> list[Path]:
        """Where the tables of so many further devices are kept."""
        return [self.path / f"latency_table_{number}.json" for number in range(2, 2 + devices)]

    def variant_files(self) -> list[Path]:
        """The exported variants in other number formats, and the documents about them."""
        document = [self.variants_document] if self.variants_document.exists() else []
        patterns = ("model.*.onnx", "check.*.json", "check.*.html")
        found = [sorted(self.variants.glob(pattern)) for pattern in patterns]
        return [*document, *chain.from_iterable(found)]

    def check_of(self, model: Path) -> Path | None:
        """Where the check of a model is written: beside it; None for a model from elsewhere."""
        model = model.resolve()
        if model == self.model.resolve():
            return self.check
        if model.parent == self.variants.resolve() and model.match("model.*.onnx"):
            return self.variants / model.with_suffix(".json").name.replace("model", "check", 1)
        return None

    def create(self) -> None:
        """Make the folder, unless it exists.

        Raises:
            InputError: when it cannot be written.
        """
        self.is_new = not self.path.exists()
        try:
            make_folder(self.checkpoints)
            probe = self.path / ".probe"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise InputError(
                "the folder cannot be written", where=str(self.path), actual=error.strerror or error
            ) from None

    def remove(self) -> None:
        """Delete the folder with everything in it, and the parent if that is empty then."""
        shutil.rmtree(self.path, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.path.parent.rmdir()

    def writer(self, path: Path) -> str:
        """The command that writes one of the files."""
        writers = {
            self.config: "hwnas search",
            self.architecture: "hwnas search",
            self.inherited: "hwnas search",
            self.formats: "hwnas shrink",
            self.weights: "hwnas train",
            self.metrics: "hwnas train",
            self.predictions: "hwnas train",
            self.training_samples: "hwnas train",
            self.generated_images: "hwnas train",
            self.recipe: "hwnas search",
            self.model: "hwnas export",
            self.check: "hwnas check",
            self.microcontroller_sizes: "hwnas export --microcontroller",
        }
        return writers.get(path, "hwnas run")

    def require(self, *paths: Path) -> None:
        """Raise InputError unless the files of earlier stages are there."""
        for path in paths:
            if not path.is_file():
                mend = f"`{self.writer(path)}` writes it"
                raise InputError("no such file", where=str(path), mend=mend)

    def read_json(self, path: Path) -> dict[str, Any]:
        """A JSON object from one of the run's files.

        Raises:
            InputError: when it is missing or no JSON object.
        """
        self.require(path)
        try:
            document = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise InputError("not JSON", where=str(path), actual=error) from None
        if not isinstance(document, dict):
            raise InputError("not an object", where=str(path))
        return document

    def write_json(self, path: Path, document: dict[str, Any]) -> None:
        """Write a JSON object atomically, for people to read too."""
        write_atomic(path, json.dumps(document, indent=1, allow_nan=False) + "\n")

    def append_history(self, record: dict[str, Any]) -> None:
        """Add a line to the history; every record has an `event`."""
        append_lines(self.history, json.dumps(record, allow_nan=False) + "\n")

    def read_history(self) -> list[dict[str, Any]]:
        """All complete lines of the history; a line that a crash cut short is left out."""
        if not self.history.is_file():
            return []
        records = []
        for line in self.history.read_text("utf-8", errors="replace").splitlines():
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(record, dict) and "event" in record:
                records.append(record)
        return records

    def rewind_history(self, stage: str, step: int) -> None:
        """Forget what a stage wrote after a step, before it is done again from a checkpoint."""
        records = self.read_history()
        kept = [record for record in records if record["event"] != stage or record["step"] <= step]
        if len(kept) < len(records):
            write_atomic(self.history, "".join(json.dumps(record) + "\n" for record in kept))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out; the lock goes with the process, whatever ends it.

        Temporary files that a killed process left are removed.

        Raises:
            InputError: when another process works in the folder.
        """
        with (self.path / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise InputError(
                    "another process works in this folder", where=str(self.path)
                ) from None
            self._remove_temporary()
            for leftover in self.path.rglob(".*.tmp"):
                if leftover.is_file():
                    leftover.unlink()
            yield

    @contextmanager
    def temporary_folder(self) -> Iterator[Path]:
        """A folder for temporary files inside this one, which is removed at the end.

        If the process is killed before that, the next one that works in the run folder removes it.
        """
        self._remove_temporary()
        self.temporary.mkdir()
        try:
            yield self.temporary
        finally:
            self._remove_temporary()

    def _remove_temporary(self) -> None:
        shutil.rmtree(self.temporary, ignore_errors=True)


def next_run_folder(parent: Path = Path("runs")) -> Path:
    """The first of run-001, run-002 ... that is not there."""
    numbers = (n for n in range(1, 100_000) if not (parent / f"run-{n:03d}").exists())
    return parent / f"run-{next(numbers):03d}"


def environment() -> dict[str, Any]:
    """What a run's figures depend on: machine, Python, packages."""
    versions = {}
    for package in STAMPED_PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "python": sys.version.split()[0],
        "packages": versions,
    }
