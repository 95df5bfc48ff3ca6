"""The stages of a run, each from files to files in one folder; `run` is all of them in a row."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from hwnas import interruption, progress
from hwnas.architecture import Architecture
from hwnas.budget import NetworkLatency, measure_network
from hwnas.check import accuracy_of, check_document, compare, input_shape, load_model
from hwnas.checkpoints import remove_checkpoints, write_atomic
from hwnas.config import CheckConfig, Config, load_config
from hwnas.cost import CostModel
from hwnas.data import (
    Augmentation,
    Batches,
    Dataset,
    Split,
    evaluation_batches,
    load_dataset,
    split_train,
)
from hwnas.decode import Decoder, latency_range_ms
from hwnas.errors import InputError, RuntimeMissingError
from hwnas.evaluate import rank_architectures
from hwnas.export import INPUT, export_network, read_metadata, set_metadata, to_onnx
from hwnas.fold import fold_batch_norms
from hwnas.latency_tables.profiler import profile_operators
from hwnas.latency_tables.runtimes import OnnxRuntime, Runtime, create_runtime
from hwnas.latency_tables.table import DeviceProfile, LatencyTable, OpSpec
from hwnas.ops import SOURCES, build, input_shapes, registry_hash
from hwnas.report import render_overview, render_report
from hwnas.run_folder import RunFolder, environment
from hwnas.search import SupernetSearch
from hwnas.selection import Measured, Selection
from hwnas.spaces import SearchSpace, build_space
from hwnas.spaces.base import Network
from hwnas.strategies import STRATEGIES
from hwnas.train import Training, final_weights, predict, test_metrics

SIZE_KEYS = ("input_channels", "height", "width", "classes")


def derived_seed(seed: int, purpose: str) -> int:
    """A seed of its own for each purpose of a run."""
    return int(np.random.SeedSequence([seed, *purpose.encode()]).generate_state(1)[0])


def operator_module(spec: OpSpec) -> tuple[nn.Module, list[tuple[int, int, int]], Any]:
    """What the profiler measures for a spec: the folded module, its input shapes, its kind."""
    kind = "source" if spec.name in SOURCES else "operator"
    return fold_batch_norms(build(spec)), input_shapes(spec), kind


def profile(
    config: Config,
    out: Path,
    *,
    partial: Path | None = None,
    stage: progress.Stage = progress.silent,
) -> LatencyTable:
    """Measure all operators of a configuration's space on its runtime and write the table.

    Args:
        config: space, data (for the sizes that the space does not state) and latency settings.
        out: the table's file.
        partial: where unfinished tables are kept and resumed from; beside `out` by default.
        stage: shows progress.

    Raises:
        RuntimeMissingError: when the runtime or device is not here.
        Interrupted: after a signal; a repeated call goes on from there.
    """
    latency = config.latency
    runtime = create_runtime(latency.runtime, latency.threads)
    runtime.require()
    space = profiled_space(config)
    partial = partial or out.with_name(f".{out.name}.partial")
    with stage("profile") as advance:

        def on_progress(done: int, total: int) -> None:
            advance(done, total, "operators")
            interruption.stop_if_requested()

        table = profile_operators(
            space.all_operators(),
            runtime=runtime,
            build=operator_module,
            to_onnx=to_onnx,
            batch=latency.batch,
            dtype=latency.dtype,
            registry=registry_hash(),
            partial_path=partial,
            versions={},
            progress=on_progress,
        )
    table.save(out)
    partial.unlink(missing_ok=True)
    return table


def profiled_space(config: Config) -> SearchSpace:
    """The space to profile: sizes that it does not state are those of the data."""
    options = config.space.options
    if not all(key in options for key in SIZE_KEYS):
        options = data_sizes(read_dataset(config)) | options
    return build_space(config.space.name, options, "configuration: space")


def read_dataset(config: Config) -> Dataset:
    """The data that a configuration names."""
    data = config.data
    return load_dataset(
        data.name,
        data.path,
        image_size=data.image_size,
        train_limit=data.train_limit,
        test_limit=data.test_limit,
        seed=derived_seed(config.seed, "data"),
    )


def data_sizes(dataset: Dataset) -> dict[str, int]:
    """The sizes of a space that the data decide."""
    return {
        "input_channels": dataset.channels,
        "height": dataset.height,
        "width": dataset.width,
        "classes": len(dataset.classes),
    }


@dataclass
class Run:
    """One run folder with its configuration; every method is a stage.

    Attributes:
        config: the resolved configuration.
        folder: where everything is read and written.
        stage: shows progress.
    """

    config: Config
    folder: RunFolder
    stage: progress.Stage = progress.silent

    @classmethod
    def start(
        cls, config: Config, out: Path, *, resume: bool, stage: progress.Stage = progress.silent
    ) -> Run:
        """Make a new folder for a run, or go on in one.

        Raises:
            InputError: when the folder cannot be written, holds a run that is not to be resumed,
                or one with another configuration.
        """
        folder = RunFolder(out)
        folder.create()
        if folder.config.exists():
            if not resume:
                raise InputError(
                    "holds a run already",
                    where=str(out),
                    mend="go on with --resume, or choose another folder with --out",
                )
            if load_config(folder.config) != config:
                raise InputError(
                    "another configuration than this run was started with",
                    where=str(folder.config),
                    mend="resume without changes, or choose another folder with --out",
                )
        write_atomic(folder.config, config.to_toml())
        folder.write_json(folder.environment, environment())
        return cls(config, folder, stage)

    @classmethod
    def open(cls, path: Path, *, stage: progress.Stage = progress.silent) -> Run:
        """The run in an existing folder."""
        folder = RunFolder(path)
        folder.require(folder.config)
        return cls(load_config(folder.config), folder, stage)

    @cached_property
    def dataset(self) -> Dataset:
        """The data; loaded when first used."""
        return read_dataset(self.config)

    @cached_property
    def device(self) -> torch.device:
        """Where search and training run; sets the number of threads.

        Raises:
            RuntimeMissingError: when CUDA is asked for and there is none.
        """
        if self.config.device == "cuda" and not torch.cuda.is_available():
            raise RuntimeMissingError(
                "no CUDA device on this machine", where="device", mend="use --device cpu"
            )
        torch.set_num_threads(self.config.threads)
        return torch.device(self.config.device)

    @cached_property
    def space(self) -> SearchSpace:
        """The search space at its deployed sizes.

        Raises:
            InputError: when the configuration states other sizes than the data have.
        """
        options, sizes = self.config.space.options, data_sizes(self.dataset)
        for key, size in sizes.items():
            if options.get(key, size) != size:
                raise InputError(
                    "the data have another size",
                    where=f"{self.folder.config}: space.{key}",
                    expected=size,
                    actual=options[key],
                )
        return build_space(self.config.space.name, options | sizes, f"{self.folder.config}: space")

    @cached_property
    def runtime(self) -> Runtime:
        """Where the model is deployed and measured."""
        runtime = create_runtime(self.config.latency.runtime, self.config.latency.threads)
        runtime.require()
        return runtime

    @cached_property
    def cost(self) -> CostModel:
        """The cost model of the run's latency table."""
        self.folder.require(self.folder.latency_table)
        table = LatencyTable.load(self.folder.latency_table)
        table.require_device(self._profile_here())
        command = f"hwnas profile {self.folder.config} --out TABLE.json"
        return CostModel(self.space, table, command=command)

    def _profile_here(self) -> DeviceProfile:
        latency = self.config.latency
        return self.runtime.profile(dtype=latency.dtype, batch=latency.batch)

    def budget_ms(self) -> float:
        """The budget in milliseconds.

        Raises:
            InputError: when it is below the fastest predicted network; names the range.
        """
        fastest_ms, slowest_ms = latency_range_ms(self.cost)
        budget = self.config.budget
        if budget.ms is None:
            assert budget.fraction is not None
            return fastest_ms + budget.fraction * (slowest_ms - fastest_ms)
        if budget.ms < fastest_ms:
            raise InputError(
                "no architecture keeps the budget",
                where="budget.ms",
                expected=f"between {fastest_ms:.4g} ms (fastest predicted network) and "
                f"{slowest_ms:.4g} ms (slowest)",
                actual=f"{budget.ms:.4g} ms",
                mend="raise the budget or make the space smaller",
            )
        return budget.ms

    def prepare_table(self, table: Path | None) -> None:
        """Put the latency table into the folder: the given one, or one measured now."""
        if table is not None:
            given = LatencyTable.load(table)
            given.require_device(self._profile_here())
            given.require(self.space.all_operators(), f"hwnas profile --out {table}")
            given.save(self.folder.latency_table)
        elif not self.folder.latency_table.exists():
            profile(
                self.config,
                self.folder.latency_table,
                partial=self.folder.partial_table,
                stage=self.stage,
            )

    def search(self) -> Architecture:
        """Search, choose and measure; writes `architecture.json`.

        Raises:
            InputError: when no architecture can keep the budget, before any training.
            BudgetError: when no candidate kept it.
            Interrupted: after a signal, with everything saved.
        """
        budget_ms = self.budget_ms()
        if not any(r["event"] == "budget" for r in self.folder.read_history()):
            fastest_ms, slowest_ms = latency_range_ms(self.cost)
            self.folder.append_history(
                {
                    "event": "budget",
                    "budget_ms": budget_ms,
                    "fastest_ms": fastest_ms,
                    "slowest_ms": slowest_ms,
                }
            )
        loop = self._supernet_search(budget_ms)
        with self.stage("search") as advance:
            loop.run(self.folder, advance)
        chosen = self._select(loop, budget_ms)
        self._write_architecture(chosen)
        return chosen.architecture

    def _supernet_search(self, budget_ms: float) -> SupernetSearch:
        config, device = self.config.search, self.device
        sizes = {**self.space.options.model_dump(), **config.proxy}
        proxy = build_space(self.space.name, sizes, f"{self.folder.config}: search.proxy")
        if proxy.choices != self.space.choices:
            raise InputError(
                "the proxy has other choices than the space",
                where=f"{self.folder.config}: search.proxy",
            )
        torch.manual_seed(derived_seed(self.config.seed, "supernet"))
        supernet = proxy.supernet().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        strategy = STRATEGIES[config.strategy](
            self.space, derived_seed(self.config.seed, "strategy"), config
        )
        training, validation = self._search_halves()
        return SupernetSearch(
            supernet,
            strategy,
            self.cost,
            budget_ms,
            config,
            self._batches(training, config.batch_size, "search training"),
            self._batches(validation, config.batch_size, "search validation"),
        )

    def _search_halves(self) -> tuple[Split, Split]:
        return split_train(self.dataset.train, 0.5, derived_seed(self.config.seed, "halves"))

    def _batches(
        self, split: Split, size: int, purpose: str, augment: Augmentation | None = None
    ) -> Batches:
        seed = derived_seed(self.config.seed, purpose)
        return Batches(split, self.dataset, size, seed, augment=augment, device=self.device)

    def _select(self, loop: SupernetSearch, budget_ms: float) -> Measured:
        config = self.config.search
        training, validation = self._search_halves()
        batches = self._batches(training, config.batch_size, "recalibration")
        recalibration = [batches.batch(i) for i in range(config.recalibration_batches)]
        ranked = validation.take(np.arange(min(config.ranking_images, len(validation))))
        validation_batches = list(evaluation_batches(ranked, self.dataset, 250, self.device))

        def rank(architectures: list[Architecture]) -> list[float]:
            return rank_architectures(
                self.space,
                loop.supernet,
                architectures,
                recalibration=recalibration,
                validation=validation_batches,
            )

        with self.stage("measure") as advance:

            def measure(architecture: Architecture) -> NetworkLatency:
                latency = self.measure_architecture(architecture, budget_ms)
                text = f"{latency.value_ms:.3f} ms, budget {budget_ms:.3f} ms"
                advance(len(selection.measured) + 1, config.max_measured, text)
                return latency

            selection = Selection(
                loop.strategy,
                Decoder(self.cost, budget_ms),
                rank,
                measure,
                self.folder,
                candidates=config.candidates,
                max_measured=config.max_measured,
            )
            return selection.run()

    def measure_architecture(
        self, architecture: Architecture, budget_ms: float | None
    ) -> NetworkLatency:
        """Latency of an architecture's exported network with random weights."""
        torch.manual_seed(derived_seed(self.config.seed, "measurement"))
        call = self._inference(self.space.network(architecture).eval())
        seconds = self.config.latency.measure_seconds
        return measure_network(call, self.runtime, budget_ms=budget_ms, seconds=seconds)

    def _inference(self, network: Network) -> Any:
        """One inference of a network as it is deployed, as a call."""
        sizes = self.space.options
        shape = (sizes.input_channels, sizes.height, sizes.width)
        images = torch.from_numpy(example_images(self.config.latency.batch, shape))
        if isinstance(self.runtime, OnnxRuntime):
            model = export_network(network, shape).SerializeToString()
            return self.runtime.prepare_onnx(model, {INPUT: images.numpy()})
        return self.runtime.prepare(fold_batch_norms(network), (images,), to_onnx)

    def _write_architecture(self, chosen: Measured) -> None:
        architecture = chosen.architecture
        params, macs = self.space.params_and_macs(architecture)
        document = architecture.to_json() | {
            "space_options": self.space.options.model_dump(),
            "genotype": self.space.to_genotype(architecture),
            "params": params,
            "macs": macs,
            "predicted_ms": chosen.predicted_ms,
        }
        order = ("schema", "space", "space_options", "choices", "genotype", "params", "macs")
        ordered = {key: document[key] for key in (*order, "predicted_ms")}
        self.folder.write_json(self.folder.architecture, ordered)

    def read_architecture(self) -> Architecture:
        """The architecture that the search chose."""
        architecture = Architecture.load(self.folder.architecture)
        self.space.validate(architecture)
        return architecture

    def train(self) -> dict[str, Any]:
        """Train the architecture from scratch; writes `weights.safetensors`, `metrics.json`.

        Returns:
            The content of `metrics.json`.

        Raises:
            Interrupted: after a signal, with a checkpoint written.
        """
        from safetensors.torch import save

        config, architecture = self.config.train, self.read_architecture()
        device = self.device
        torch.manual_seed(derived_seed(self.config.seed, "network"))
        network = self.space.network(architecture)
        augment = Augmentation(config.crop_padding, config.flip, config.cutout)
        training = Training(
            network.to(device, memory_format=torch.channels_last),  # type: ignore[call-overload]
            config,
            self._batches(self.dataset.train, config.batch_size, "training", augment),
            derived_seed(self.config.seed, "drop path"),
        )
        with self.stage("train") as advance:
            training.run(self.folder, advance)
        metrics = {
            "schema": 1,
            **test_metrics(training.average, self.dataset, device),
            "epochs": config.epochs,
            "seconds": training.seconds,
        }
        write_atomic(self.folder.weights, save(final_weights(training.average)))
        self.folder.write_json(self.folder.metrics, metrics)
        remove_checkpoints(self.folder.checkpoints, "train")
        return metrics

    def trained_network(self) -> Network:
        """The architecture's network with its trained weights, in eval mode on the CPU."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        self.folder.require(self.folder.weights)
        network = self.space.network(self.read_architecture())
        network.auxiliary = None
        try:
            network.load_state_dict(load_file(self.folder.weights))
        except (SafetensorError, RuntimeError) as error:
            raise InputError(
                "not the weights of this architecture",
                where=str(self.folder.weights),
                actual=str(error).splitlines()[0],
                mend="`hwnas train` writes them",
            ) from None
        return network.eval()

    def export(self) -> Path:
        """Write `model.onnx` with the facts of the run as its properties."""
        sizes = self.space.options
        network = self.trained_network()
        model = export_network(network, (sizes.input_channels, sizes.height, sizes.width))
        set_metadata(model, self._model_properties())
        write_atomic(self.folder.model, model.SerializeToString())
        return self.folder.model

    def _model_properties(self) -> dict[str, str]:
        import hashlib

        document = self.folder.read_json(self.folder.architecture)
        latency = self.config.latency
        return {
            "architecture": json.dumps(document["choices"]),
            "space": document["space"],
            "space_options": json.dumps(document["space_options"]),
            "classes": json.dumps(self.dataset.classes),
            "input_mean": json.dumps(self.dataset.mean),
            "input_std": json.dumps(self.dataset.std),
            "params": str(document["params"]),
            "macs": str(document["macs"]),
            "predicted_ms": repr(document["predicted_ms"]),
            "budget_ms": repr(self.budget_ms()),
            "runtime": latency.runtime,
            "batch": str(latency.batch),
            "threads": str(latency.threads),
            "weights_sha256": hashlib.sha256(self.folder.weights.read_bytes()).hexdigest(),
            "hwnas_version": environment()["packages"].get("hwnas", "unknown"),
        }

    def check(
        self, model_path: Path | None = None, budget_ms: float | None = None
    ) -> dict[str, Any]:
        """Check a model against this run; writes `check.json` and returns its content.

        Args:
            model_path: the run's own model if None.
            budget_ms: the run's own budget if None.
        """
        path = model_path or self.folder.model
        model = load_model(path)
        input_name, shape = input_shape(model, str(path))
        sizes = self.space.options
        if shape != (sizes.input_channels, sizes.height, sizes.width):
            raise InputError(
                "the model takes images of another size",
                where=str(path),
                expected=(sizes.input_channels, sizes.height, sizes.width),
                actual=shape,
            )
        network = self.trained_network()
        exported = onnx_predictor(model.SerializeToString(), input_name)

        def reference(images: np.ndarray) -> np.ndarray:
            with torch.no_grad():
                return network(torch.from_numpy(images)).numpy()

        budget_ms = self.budget_ms() if budget_ms is None else budget_ms
        with self.stage("check") as advance:
            advance(0, 2, "parity and accuracy")
            parity = compare(reference, exported, self.dataset)
            logits = predict(network, self.dataset.test, self.dataset, torch.device("cpu"))
            accuracy = {
                "torch": float((logits.argmax(axis=1) == self.dataset.test.labels).mean()),
                "onnx": accuracy_of(exported, self.dataset),
                "n": len(self.dataset.test.labels),
            }
            advance(1, 2, "latency")
            latency = self._measure_model(model.SerializeToString(), input_name, network, budget_ms)
            advance(2, 2, f"{latency.value_ms:.3f} ms")
        document = check_document(
            path=path,
            model=model,
            latency=latency,
            budget_ms=budget_ms,
            predicted_ms=self.folder.read_json(self.folder.architecture)["predicted_ms"],
            parity=parity,
            accuracy=accuracy,
            limits=self.config.check,
            environment=environment(),
        )
        self.folder.write_json(self.folder.check, document)
        return document

    def _measure_model(
        self, model: bytes, input_name: str, network: Network, budget_ms: float
    ) -> NetworkLatency:
        sizes = self.space.options
        shape = (sizes.input_channels, sizes.height, sizes.width)
        images = example_images(self.config.latency.batch, shape)
        if isinstance(self.runtime, OnnxRuntime):
            call = self.runtime.prepare_onnx(model, {input_name: images})
        else:
            call = self._inference(network)
        return measure_network(
            call, self.runtime, budget_ms=budget_ms, seconds=self.config.check.measure_seconds
        )

    def report(self) -> Path:
        """Write `report.html` from what the folder holds."""
        latencies: Mapping[str, float] = {}
        if self.folder.architecture.exists() and self.folder.latency_table.exists():
            latencies = self.cost.operator_latencies_ms(self.read_architecture())
        write_atomic(self.folder.report, render_report(self.folder, self.space, latencies))
        return self.folder.report


def check_model(path: Path, *, budget_ms: float | None, runtime_name: str | None) -> dict[str, Any]:
    """Check a model that comes with no run: it loads, and its latency against a budget.

    Budget, runtime and batch that are not given are those in the model's properties.

    Raises:
        InputError: when the model cannot be read or fed, or the runtime does not run ONNX files.
    """
    model = load_model(path)
    properties = read_metadata(model)
    name = runtime_name or properties.get("runtime", "onnxruntime-cpu")
    runtime = create_runtime(name, int(properties.get("threads", 1)))
    if not isinstance(runtime, OnnxRuntime):
        raise InputError(
            "this runtime needs the run that the model comes from", where=name, mend="add --run DIR"
        )
    runtime.require()
    input_name, shape = input_shape(model, str(path))
    images = example_images(int(properties.get("batch", 1)), shape)
    if budget_ms is None and "budget_ms" in properties:
        budget_ms = float(properties["budget_ms"])
    limits = CheckConfig()
    latency = measure_network(
        runtime.prepare_onnx(model.SerializeToString(), {input_name: images}),
        runtime,
        budget_ms=budget_ms,
        seconds=limits.measure_seconds,
    )
    return check_document(
        path=path,
        model=model,
        latency=latency,
        budget_ms=budget_ms,
        predicted_ms=float(properties["predicted_ms"]) if "predicted_ms" in properties else None,
        parity=None,
        accuracy=None,
        limits=limits,
        environment=environment(),
    )


def report(path: Path) -> Path:
    """Write the report of a run folder, or the overview of the run folders in a folder.

    Raises:
        InputError: when there is no run.
    """
    if (path / "config.toml").exists():
        return Run.open(path).report()
    folders = [RunFolder(p.parent) for p in sorted(path.glob("*/config.toml"))]
    if not folders:
        raise InputError("no run here", where=str(path), expected="a run folder")
    target = path / "report.html"
    write_atomic(target, render_overview(folders))
    return target


def example_images(batch: int, shape: tuple[int, int, int]) -> np.ndarray:
    """Seeded random images (batch, C, H, W) to measure with."""
    return np.random.default_rng(0).standard_normal((batch, *shape), dtype=np.float32)


def onnx_predictor(model: bytes, input_name: str) -> Any:
    """A call from images to logits on ONNX Runtime's CPU provider."""
    runtime = create_runtime("onnxruntime-cpu", threads=1)
    assert isinstance(runtime, OnnxRuntime)
    session = runtime.session(model)
    output = session.get_outputs()[0].name
    return lambda images: session.run([output], {input_name: images})[0]


def run(
    config: Config,
    out: str | Path,
    *,
    table: str | Path | None = None,
    resume: bool = False,
    stage: progress.Stage = progress.silent,
) -> dict[str, Any]:
    """All stages in a row: profile, search, train, export, check, report.

    Args:
        config: the settings, from `load_config`.
        out: the run folder.
        table: a latency table of this device; measured now if None.
        resume: go on in a folder that holds an unfinished run.
        stage: shows progress.

    Returns:
        The content of `check.json`; its verdict is `pass` when the model keeps the budget and
        every other gate.

    Raises:
        HwnasError: with the exit code that the command line gives.
    """
    current = Run.start(config, Path(out), resume=resume, stage=stage)
    with current.folder.locked():
        current.prepare_table(None if table is None else Path(table))
        if not current.folder.architecture.exists():
            current.search()
        if not current.folder.metrics.exists():
            current.train()
        current.export()
        document = current.check()
        current.report()
    return document
