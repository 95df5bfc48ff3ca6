"""One run: its configuration and folder, and what both lead to, each loaded when first used."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hwnas.architecture import Architecture
from hwnas.budget.cost import CostModel
from hwnas.budget.decode import latency_range_ms
from hwnas.budget.gate import NetworkLatency
from hwnas.budget.limit import Limit
from hwnas.calibration.networks import read_accuracies, read_measurements, to_text
from hwnas.config import BudgetConfig, Config, load_config, with_absolute_paths
from hwnas.data import Augmentation, Batches, Dataset, Split, load_dataset
from hwnas.errors import InputError, RuntimeMissingError
from hwnas.evaluators.storage import open_study
from hwnas.latency_tables.runtimes import Runtime, create_runtime
from hwnas.latency_tables.table import DeviceProfile, LatencyTable
from hwnas.pipeline.compatibility import (
    check_measurements,
    check_ranks,
    check_strategy,
    check_supernet,
)
from hwnas.runs import progress
from hwnas.runs.checkpoints import write_atomic
from hwnas.runs.ranks import ALONE, Ranks
from hwnas.runs.run_folder import RunFolder, environment
from hwnas.spaces import SearchSpace, build_space
from hwnas.spaces.base import Network, SpaceOptions, Supernet
from hwnas.strategies import STRATEGIES
from hwnas.tasks import Task, task_of

if TYPE_CHECKING:
    from optuna import Study


@dataclass
class Run:
    """A run folder with its configuration; stages read from it and write to it.

    Attributes:
        config: the resolved configuration.
        folder: where everything is read and written.
        stage: shows progress.
        ranks: the processes that search together.
    """

    config: Config
    folder: RunFolder
    stage: progress.Stage = progress.silent
    ranks: Ranks = ALONE

    @classmethod
    def start(
        cls,
        config: Config,
        out: Path,
        *,
        resume: bool,
        stage: progress.Stage = progress.silent,
        ranks: Ranks = ALONE,
    ) -> Run:
        """Make a new folder for a run, or go on in one. Nothing but the folder is written yet.

        Raises:
            InputError: when the folder cannot be written, holds a run that is not to be resumed
                or one with another configuration, or when there is nothing to resume.
        """
        config = with_absolute_paths(config)
        folder = RunFolder(out)
        folder.create()
        # Processes that their launcher started again go on with what they have.
        started_here = ranks.restarts and folder.launch.exists()
        if resume or (started_here and folder.launch.read_text() == ranks.launch):
            folder.require(folder.config)
            if load_config(folder.config) != config:
                raise InputError(
                    "another configuration than this run was started with",
                    where=str(folder.config),
                    mend="resume without changes, or choose another folder with --out",
                )
        elif folder.history.exists() or folder.architecture.exists():
            raise InputError(
                "holds a run already",
                where=str(out),
                mend="go on with --resume, or choose another folder with --out",
            )
        return cls(config, folder, stage, ranks)

    def begin(self) -> None:
        """Build all that can be wrong before anything is measured, then write the configuration.

        Raises:
            InputError: for data, sizes or a proxy that do not fit.
            RuntimeMissingError: for a device or runtime that is not here.
        """
        search = self.config.search
        where = f"{self.folder.config}: search"
        check_strategy(search, where)
        check_ranks(search, self.ranks, where)
        space, batch_size = self.space, max(search.batch_size, self.config.train.batch_size)
        if self.proxy_space.choices != space.choices:
            raise InputError(
                "the proxy has other choices than the space",
                where=f"{self.folder.config}: search.proxy",
            )
        with torch.device("meta"):
            supernet = self.supernet()
        check_supernet(self.config, supernet, self.task, str(self.folder.config))
        check_measurements(self.config, self.runtime, str(self.folder.config))
        if search.accuracy_table is not None:
            self.accuracy_table  # noqa: B018
        if search.storage is not None:
            self.open_study()
        if len(self.dataset.train) < 2 * batch_size:
            raise InputError(
                "too few training samples",
                where=self.config.data.name,
                expected=f"two batches of {batch_size}",
                actual=len(self.dataset.train),
                mend="make search.batch_size and train.batch_size smaller",
            )
        environment_here = {"device": self.runtime.device_name(), "search_on": str(self.device)}
        write_atomic(self.folder.config, self.config.to_toml())
        self.folder.write_json(self.folder.environment, environment() | environment_here)
        if self.ranks.size > 1:
            write_atomic(self.folder.launch, self.ranks.launch)

    @classmethod
    def open(
        cls, path: Path, *, stage: progress.Stage = progress.silent, ranks: Ranks = ALONE
    ) -> Run:
        """The run in an existing folder.

        Raises:
            InputError: when there is none.
        """
        folder = RunFolder(path)
        folder.require(folder.config)
        return cls(load_config(folder.config), folder, stage, ranks)

    def on_runtime(self, name: str) -> Run:
        """The same run, deployed on another runtime."""
        latency = self.config.latency.model_copy(update={"runtime": name})
        return Run(self.config.model_copy(update={"latency": latency}), self.folder, self.stage)

    @cached_property
    def dataset(self) -> Dataset:
        """The data."""
        return read_dataset(self.config)

    @cached_property
    def task(self) -> Task:
        """What is learned from the data."""
        return task_of(self.dataset)

    @cached_property
    def device(self) -> torch.device:
        """Where search and training run; asking for it sets the number of threads.

        Raises:
            RuntimeMissingError: when CUDA is asked for and there is none.
        """
        if self.config.device == "cuda" and not torch.cuda.is_available():
            raise RuntimeMissingError(
                "no CUDA device on this machine", where="device", mend="use --device cpu"
            )
        torch.set_num_threads(self.config.threads)
        if self.config.device == "cuda" and self.ranks.size > 1:
            if self.ranks.local_rank >= torch.cuda.device_count():
                raise InputError(
                    "more processes than CUDA devices",
                    where="torchrun --nproc-per-node",
                    expected=f"at most {torch.cuda.device_count()}",
                )
            torch.cuda.set_device(self.ranks.local_rank)
        return torch.device(self.config.device)

    @cached_property
    def space(self) -> SearchSpace:
        """The search space at its deployed sizes.

        Raises:
            InputError: when the configuration states other sizes than the data have.
        """
        where = f"{self.folder.config}: space"
        options, sizes = self.config.space.options, data_sizes(self.task)
        for key, size in sizes.items():
            if options.get(key, size) != size:
                raise InputError(
                    "the data have another size",
                    where=f"{where}.{key}",
                    expected=size,
                    actual=options[key],
                )
        return build_space(self.config.space.name, options | sizes, where)

    @cached_property
    def proxy_space(self) -> SearchSpace:
        """The search space at the sizes of the supernet."""
        where = f"{self.folder.config}: search.proxy"
        proxy = self.config.search.proxy
        for key in SpaceOptions.model_fields:
            if key in proxy:
                raise InputError(
                    "this size is the data's and cannot be another in the proxy",
                    where=f"{where}.{key}",
                )
        return build_space(self.space.name, self.space.options.model_dump() | proxy, where)

    def supernet(self) -> Supernet:
        """A new supernet at the proxy's sizes.

        Raises:
            InputError: when its channels cannot be divided as the configuration or strategy asks.
        """
        search = self.config.search
        partial_channels = search.partial_channels or STRATEGIES[search.strategy].partial_channels
        return self.proxy_space.supernet(partial_channels)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the network's input for one sample."""
        return self.space.options.input_shape

    @cached_property
    def runtime(self) -> Runtime:
        """Where the model is deployed and measured.

        Raises:
            RuntimeMissingError: when it is not on this machine.
        """
        runtime = create_runtime(self.config.latency.runtime, self.config.latency.threads)
        runtime.require()
        return runtime

    @cached_property
    def device_measurements(self) -> dict[Architecture, float] | None:
        """Latencies in ms by network that stand for the device; None to measure on this one.

        Raises:
            InputError: when the file is missing or malformed.
        """
        path = self.config.latency.device_measurements
        if path is None:
            return None
        networks, latency_ms = read_measurements(Path(path), self.space)
        return dict(zip(networks, latency_ms.tolist(), strict=True))

    @cached_property
    def accuracy_table(self) -> dict[Architecture, float]:
        """Accuracies, 0 to 1, by network, from the file of the table evaluator.

        Raises:
            InputError: when the file is missing or malformed.
        """
        assert self.config.search.accuracy_table is not None
        return read_accuracies(Path(self.config.search.accuracy_table), self.space)

    def open_study(self) -> Study:
        """The study in the storage that several searches share.

        They have to get the same scores and search the same: its name says what they agree on,
        by content where files may lie in different places.

        Raises:
            InputError: when the storage cannot be opened.
        """
        config, dataset = self.config, self.dataset
        assert config.search.storage is not None
        places = {"storage": None, "accuracy_table": None}
        stated = config.model_copy(
            update={
                "data": config.data.model_copy(update={"path": None}),
                "search": config.search.model_copy(update=places),
            }
        )
        digest = hashlib.sha256(stated.to_toml().encode())
        digest.update(dataset.train.targets.tobytes() + dataset.train.inputs[:100].tobytes())
        if config.search.accuracy_table is not None:
            digest.update(repr(sorted(self.accuracy_table.values())).encode())
        name = f"{config.space.name} {config.search.evaluator} {digest.hexdigest()[:12]}"
        return open_study(config.search.storage, name, "maximize", "search.storage")

    def stated_latency(self, architecture: Architecture) -> NetworkLatency:
        """What the file that stands for the device says of a network.

        Raises:
            InputError: when it says nothing.
        """
        assert self.device_measurements is not None
        latency_ms = self.device_measurements.get(architecture)
        path = self.config.latency.device_measurements
        if latency_ms is None:
            raise InputError(
                "the device's file has no latency of a network",
                where=str(path),
                expected=to_text(self.space, architecture),
                actual=f"{len(self.device_measurements)} others",
            )
        return NetworkLatency.stated(latency_ms, f"file {Path(path or '').name}")

    @property
    def profile_command(self) -> str:
        """What measures the operators of this run."""
        return f"hwnas profile {self.folder.config} --out TABLE.json"

    def device_profile(self) -> DeviceProfile:
        """This device and the latency settings, as a table has to have them."""
        latency = self.config.latency
        return self.runtime.profile(dtype=latency.dtype, batch=latency.batch)

    @cached_property
    def cost(self) -> CostModel:
        """The cost model of the run's latency table."""
        self.folder.require(self.folder.latency_table)
        table = LatencyTable.load(self.folder.latency_table)
        return CostModel(self.space, table, command=self.profile_command)

    @cached_property
    def latency_range_ms(self) -> tuple[float, float]:
        """Predicted latency of the fastest and of the slowest network of the space."""
        return latency_range_ms(self.cost)

    def budget_ms(self) -> float:
        """The budget in milliseconds.

        Raises:
            InputError: when it is below the fastest predicted network; names the range.
        """
        fastest_ms, slowest_ms = self.latency_range_ms
        budget = self.config.budget
        if budget.fraction is not None:
            return fastest_ms + budget.fraction * (slowest_ms - fastest_ms)
        assert budget.ms is not None
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

    def limits(self) -> list[Limit]:
        """The budgets that the search has to keep, this device's first."""
        confidence = self.config.budget.confidence
        limits = [Limit(self.cost, self.budget_ms(), confidence)]
        for path, device in zip(self.device_tables, self.config.devices, strict=True):
            cost = CostModel(self.space, LatencyTable.load(path))
            limits.append(Limit(cost, device.budget_ms, confidence))
        return limits

    @property
    def device_tables(self) -> list[Path]:
        """The run's own copies of the tables of further devices."""
        return self.folder.device_tables(len(self.config.devices))

    @cached_property
    def family(self) -> list[Run]:
        """The runs of the further budgets, each in a folder of its own inside this one."""
        members = []
        for budget_ms in self.config.budget.family_ms:
            budget = BudgetConfig(ms=budget_ms, confidence=self.config.budget.confidence)
            folder = RunFolder(self.folder.path / "family" / f"{budget_ms:g}ms")
            config = self.config.model_copy(update={"budget": budget})
            members.append(Run(config, folder, self.stage))
        return members

    def start_member(self, main: Run) -> None:
        """Write the files of a member of a family that are the main run's."""
        self.folder.create()
        write_atomic(self.folder.config, self.config.to_toml())
        for source, copy in (
            (main.folder.environment, self.folder.environment),
            (main.folder.latency_table, self.folder.latency_table),
            *zip(main.device_tables, self.device_tables, strict=True),
        ):
            write_atomic(copy, source.read_bytes())

    def seed(self, purpose: str) -> int:
        """A seed of its own for each purpose of the run."""
        return derived_seed(self.config.seed, purpose)

    def batches(
        self, split: Split, size: int, purpose: str, augment: Augmentation | None = None
    ) -> Batches:
        """Batches of a split on the run's device, seeded by their purpose."""
        seed = self.seed(purpose)
        return Batches(split, self.dataset, size, seed, augment=augment, device=self.device)

    def architecture(self) -> Architecture:
        """The architecture that the search chose."""
        architecture = Architecture.load(self.folder.architecture)
        self.space.validate(architecture)
        return architecture

    def trained_network(self) -> Network:
        """The architecture's network with its trained weights, in eval mode on the CPU.

        Raises:
            InputError: when the weights are missing, or another architecture's.
        """
        network = self.space.network(self.architecture())
        network.auxiliary = None
        self.load_weights(network, self.folder.weights)
        return network.eval()

    def load_weights(self, network: Network, path: Path) -> None:
        """Give the architecture's network the weights in one of the run's files.

        Raises:
            InputError: when the file is missing, or has another architecture's weights.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        self.folder.require(path)
        try:
            network.load_state_dict(load_file(path))
        except (SafetensorError, RuntimeError) as error:
            raise InputError(
                "not the weights of this architecture",
                where=str(path),
                actual=str(error).splitlines()[0],
                mend=f"`{self.folder.writer(path)}` writes them",
            ) from None


def derived_seed(seed: int, purpose: str) -> int:
    """A seed of its own for each purpose."""
    return int(np.random.SeedSequence([seed, *purpose.encode()]).generate_state(1)[0])


def read_dataset(config: Config) -> Dataset:
    """The data that a configuration names."""
    data = config.data
    return load_dataset(
        data.name,
        data.path,
        image_size=data.image_size,
        sequence_length=data.sequence_length,
        train_limit=data.train_limit,
        test_limit=data.test_limit,
        seed=derived_seed(config.seed, "data"),
    )


def data_sizes(task: Task) -> dict[str, Any]:
    """The sizes of a space that the data decide, and what its networks read and end with."""
    dataset = task.dataset
    is_text = bool(dataset.vocabulary)
    channels, height, width = (1, 1, *dataset.input_shape) if is_text else dataset.input_shape
    return {
        "input_channels": channels,
        "height": height,
        "width": width,
        "classes": task.outputs,
        "head": task.head,
        "vocabulary": len(dataset.vocabulary) if is_text else None,
    }
