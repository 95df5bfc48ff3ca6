"""A finished run as an object that predicts."""

from __future__ import annotations

import html
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from hwnas.data import Dataset
from hwnas.data.normalisation import Preprocessed
from hwnas.data.own_data import Samples
from hwnas.deploy.plain import plain_module
from hwnas.deploy.variants import EXPORTED, make_variant, parse_variants
from hwnas.durable import write_atomic
from hwnas.errors import InputError
from hwnas.inference.boxes import Detections
from hwnas.inference.predictor import Predictor
from hwnas.pipeline import check as check_stage
from hwnas.pipeline.calibration_samples import calibration_feeds
from hwnas.pipeline.control_choice import SEARCHED
from hwnas.pipeline.fine_tuning import fine_tune
from hwnas.pipeline.problem import Problem
from hwnas.pipeline.profile import example_feeds
from hwnas.pipeline.report import report
from hwnas.pipeline.run import Run
from hwnas.reporting.formatting import count, in_words, milliseconds, percent
from hwnas.runs import progress
from hwnas.runs.run_folder import RunFolder
from hwnas.spaces.traced.space import TracedNetwork


def load(folder: str | Path) -> Result:
    """Open a finished run.

    Args:
        folder: the run folder.

    Raises:
        InputError: when there is no run, or when it is not finished.
    """
    return Result(folder)


class Result:
    """What a run found: a trained network that keeps its budget.

    Attributes:
        folder: the run folder.
    """

    def __init__(self, folder: str | Path, given: Problem | None = None) -> None:
        """Open a run folder; see `load`.

        Args:
            folder: the run folder.
            given: what was given in Python in place of what the configuration names.
        """
        self._given = given
        self.folder = Path(folder)
        self._files = files = RunFolder(self.folder)
        files.require(files.config, files.architecture, files.weights, files.model, files.check)

    # ---- what was found ----

    @property
    def verdict(self) -> str:
        """`pass` if the model keeps its budget and all gates, else `fail` or `inconclusive`."""
        return str(self._check["verdict"])

    @property
    def latency_ms(self) -> float:
        """Measured latency of the exported model in milliseconds."""
        return float(self._check["measured"]["value_ms"])

    @property
    def budget_ms(self) -> float:
        """The latency budget in milliseconds."""
        return float(self._check["budget_ms"])

    @property
    def metric(self) -> str:
        """The name of the task's score, such as `accuracy`."""
        return str(self._files.read_json(self._files.metrics)["metric"])

    @property
    def score(self) -> float:
        """The task's score on the test samples, 0 to 1; of a quantised model its own."""
        if self._files.formats.exists():
            return float(self._check[self.metric]["onnx"])
        return float(self._files.read_json(self._files.metrics)[self.metric])

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; of language models the tokens, of regression the one value."""
        return self._predictor.classes

    @property
    def report(self) -> Path:
        """The report, one HTML page."""
        return self._files.report

    @property
    def task(self) -> str:
        """What the model was trained for, such as `image-classification`."""
        return self._predictor.description.task

    @property
    def controls(self) -> dict[str, dict[str, float]]:
        """The networks that were trained for comparison (the setting `controls`), by name.

        Each has a `score` from 0 to 1, and a `latency_ms` in milliseconds that was measured in turn
        with the other networks. The first, `searched`, is this run's own model; a network that is
        several controls has the same figures under each of their names. Controls that no network
        within the budget could be are left out. Empty if the run made no comparison.
        """
        path = self._files.controls_document
        if not path.exists():
            return {}
        document = self._files.read_json(path)
        return {
            name: {"score": one["score"], "latency_ms": one["measured"]["value_ms"]}
            for name, one in {SEARCHED: document["searched"], **document["controls"]}.items()
            if one.get("score") is not None
        }

    @cached_property
    def model(self) -> nn.Module:
        """The trained network, made of PyTorch's own modules and functions alone.

        It is in eval mode on the CPU, and can be trained, compiled, and pickled; who loads it
        needs PyTorch and not hwnas. Its inputs are those of the ONNX model: normalised ones, unless
        the run was asked to make the normalisation a part of the model (`export.preprocess`).
        """
        network: nn.Module = self._run.trained_network()
        preprocessing = self._run.problem.preprocessing
        if isinstance(network, TracedNetwork) and preprocessing is None:
            return network.plain()
        return plain_module(
            network if preprocessing is None else Preprocessed(network, preprocessing)
        )

    @property
    def family(self) -> list[Result]:
        """The runs of the further budgets in their order; empty if there was a single budget."""
        return [Result(one.folder.path, one.given) for one in self._run.family]

    # ---- asking the model ----

    def predict(self, samples: Any) -> np.ndarray | list[Detections]:
        """The answers of the exported model to raw samples; see `Predictor.predict`.

        Args:
            samples: as the training data were: images (N, C, H, W) of the same type, signals
                (N, C, L), rows of a table (N, F), or texts; several inputs as a tuple or a
                dictionary of them. They are prepared as in training.

        Returns:
            Names of classes (N,), or (N, T) for each position of a sequence; of segmentation the
            class of each pixel (N, H, W); of detection the boxes of each image; of regression the
            values (N,).

        Raises:
            InputError: samples that do not fit the model.
        """
        return self._predictor.predict(samples)

    def predict_proba(self, samples: Any) -> np.ndarray:
        """Probabilities (N, K) in the order of `classes`; see `predict`.

        Raises:
            InputError: samples that do not fit the model, or a task without probabilities.
        """
        return self._predictor.predict_proba(samples)

    # ---- going on with it ----

    def fine_tune(
        self,
        data: Samples | Dataset,
        epochs: int,
        *,
        learning_rate: float | None = None,
        out: str | Path | None = None,
        show_progress: bool = True,
    ) -> Result:
        """Train the network further on other samples of the same task and classes.

        This run is not changed. The new one has a folder of its own, the same settings, and the
        same test samples; its model is exported and checked as that of any run.

        Args:
            data: pairs of raw inputs and targets as arrays, a PyTorch dataset or a loader (see
                `hwnas.dataset_of`), or the training part of a dataset of hwnas. Classes are given
                by name or as indices into `classes`.
            epochs: how often the samples are gone through.
            learning_rate: at the start of a cosine schedule; a tenth of the run's own if None.
            out: the new folder; the next free `FOLDER-tuned-001` ... if None.
            show_progress: show a bar or lines on stderr.

        Raises:
            InputError: data of another shape, type or class, or a folder that holds something.
        """
        tuned = fine_tune(
            self._run,
            self._predictor.description,
            data,
            epochs=epochs,
            learning_rate=learning_rate,
            out=None if out is None else Path(out),
            stage=progress.shown if show_progress else progress.silent,
        )
        return Result(tuned.folder.path, tuned.given)

    def export(self, path: str | Path, variant: str = EXPORTED) -> Path:
        """Write the model to a file.

        Args:
            path: ends with `.onnx`, or with `.pt2` for a program of `torch.export`, which
                `torch.export.load` reads.
            variant: number format of an ONNX file: fp32, fp16, int8, int8-tensor or int8-dynamic.
                `hwnas export --variants` also judges and measures them.

        Returns:
            The path.

        Raises:
            InputError: another ending or number format, or a folder that does not exist.
        """
        path, names = Path(path), parse_variants(variant)
        if path.suffix not in (".onnx", ".pt2") or (path.suffix == ".pt2" and len(names) > 1):
            raise InputError(
                "cannot export to this file",
                where=str(path),
                expected="a name that ends with .onnx, or with .pt2 for fp32 alone",
            )
        if not path.parent.is_dir():
            raise InputError("no such folder", where=str(path.parent), mend="create it")
        if path.suffix == ".pt2":
            feeds = example_feeds(2, self._run.problem.input_shape)
            inputs = tuple(map(torch.from_numpy, feeds.values()))
            size = torch.export.Dim("batch")
            batch = tuple({0: size} for _ in inputs)
            program = torch.export.export(self.model, inputs, dynamic_shapes=batch)
            torch.export.save(program, path)
        elif len(names) == 1:
            write_atomic(path, self._files.model.read_bytes())
        else:
            calibration = calibration_feeds(self._run)
            write_atomic(path, make_variant(names[-1], self._files.model, calibration))
        return path

    def check(self, budget_ms: float | None = None, show_progress: bool = True) -> dict[str, Any]:
        """Check the exported model again on this machine, and renew `check.json` and the report.

        Args:
            budget_ms: latency budget in milliseconds; the run's own if None.
            show_progress: show a bar or lines on stderr.

        Returns:
            The content of `check.json`.
        """
        stage = progress.shown if show_progress else progress.silent
        run = replace(self._run, stage=stage)
        with run.folder.locked():
            document = check_stage.check(run, budget_ms=budget_ms)
            report(self.folder)
        return document

    # ---- how it is shown ----

    def __repr__(self) -> str:
        facts = ", ".join(f"{name} {value}" for name, value in self._facts())
        return f"Result({str(self.folder)!r}): {facts}"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
            f"<td style='text-align:left'>{html.escape(value)}</td></tr>"
            for name, value in [("run", str(self.folder)), *self._facts()]
        )
        return f"<table>{rows}</table>"

    def _facts(self) -> list[tuple[str, str]]:
        """What is known of the run, by name."""
        document = self._check
        measured = document["measured"]["value_ms"]
        facts = [("verdict", str(document["verdict"])), ("latency", milliseconds(measured))]
        if document["budget_ms"] is not None:
            facts.append(("budget", milliseconds(document["budget_ms"])))
        params = self._files.read_json(self._files.architecture)["params"]
        return [
            *facts,
            (in_words(self.metric), percent(self.score)),
            ("parameters", count(params)),
            ("task", self.task),
        ]

    @property
    def _check(self) -> dict[str, Any]:
        return self._files.read_json(self._files.check)

    @cached_property
    def _run(self) -> Run:
        return replace(Run.open(self.folder), given=self._given)

    @cached_property
    def _predictor(self) -> Predictor:
        return Predictor(self._files.model)
