"""One run: its configuration and folder, and what both lead to."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from hwnas.architecture import Architecture
from hwnas.config import BudgetConfig, Config, TrainConfig, load_config, with_absolute_paths
from hwnas.data import Augmentation, Batches, Split
from hwnas.durable import write_atomic
from hwnas.errors import InputError, RuntimeMissingError
from hwnas.evaluators.recipes import with_recipe
from hwnas.evaluators.storage import open_study
from hwnas.latency_tables.remote.inventory import find_device
from hwnas.pipeline.compatibility import (
    check_augmentation,
    check_controls,
    check_formats,
    check_measurements,
    check_preprocessing,
    check_ranks,
    check_recipe,
    check_strategy,
    check_supernet,
)
from hwnas.pipeline.problem import Problem, data_in_words, derived_seed
from hwnas.pipeline.target import Target
from hwnas.runs import progress
from hwnas.runs.heartbeat import recorded
from hwnas.runs.ranks import ALONE, Ranks
from hwnas.runs.run_folder import RunFolder, environment
from hwnas.spaces.networks import Network

if TYPE_CHECKING:
    from optuna import Study

logger = logging.getLogger("hwnas")


@dataclass
class Run:
    """A run folder with its configuration; the stages read from it and write to it.

    Attributes:
        config: the resolved configuration.
        folder: where everything is read and written.
        stage: shows progress.
        ranks: the processes that search together.
        source: how errors name the configuration; the folder's `config.toml` by default.
        given: what was given in Python in place of what the configuration names.
    """

    config: Config
    folder: RunFolder
    stage: progress.Stage = progress.silent
    ranks: Ranks = ALONE
    source: str = ""
    given: Problem | None = None

    @property
    def where(self) -> str:
        """The configuration's name in errors: the file that the user wrote, where it is known."""
        return self.source or str(self.folder.config)

    @classmethod
    def start(
        cls,
        config: Config,
        out: Path,
        *,
        resume: bool,
        stage: progress.Stage = progress.silent,
        ranks: Ranks = ALONE,
        source: str = "",
        given: Problem | None = None,
    ) -> Run:
        """Make a new folder for a run, or continue in one. Only the folder is written yet.

        Raises:
            InputError: when the folder cannot be written, holds a run that is not to be resumed
                or one with another configuration, or when there is nothing to resume.
        """
        config = with_absolute_paths(config)
        folder = RunFolder(out)
        # A launcher that restarts failed processes starts them without --resume.
        restarted = ranks.restarts and folder.launch.exists()
        if resume or (restarted and folder.launch.read_text("utf-8") == ranks.launch):
            folder.require(folder.config)
            kept = load_config(folder.config)
            if kept != config and not _shortened(kept, config):
                raise InputError(
                    "the run was started with another configuration",
                    where=str(folder.config),
                    mend="resume without changes, or choose another folder with --out",
                )
            config = kept
        elif folder.history.exists() or folder.architecture.exists():
            raise InputError(
                "this folder already holds a run",
                where=str(out),
                mend="continue it with --resume, or choose another folder with --out",
            )
        folder.create()
        watched = recorded(stage, folder.heartbeat) if ranks.writes else stage
        return cls(config, folder, watched, ranks, source, given)

    def begin(self) -> None:
        """Find what is wrong with the settings before anything is measured, then write them.

        Raises:
            InputError: for data, sizes or a proxy that do not fit each other.
            RuntimeMissingError: for a device or runtime that this machine does not have.
        """
        config, where = self.config, self.where
        check_strategy(config.search, f"{where}: search")
        check_ranks(config.search, self.ranks, f"{where}: search")
        self.problem.proxy_space  # noqa: B018  # its tensors must not be made on the meta device
        if config.shrink is None:
            with torch.device("meta"):
                supernet = self.problem.supernet()
            check_supernet(config, supernet, self.problem.task, where)
        check_measurements(config, self.target.runtime, where)
        check_formats(config, self.target.runtime, where)
        check_preprocessing(config, where)
        self.problem.preprocessing  # noqa: B018  # refuses what cannot be normalised
        check_controls(config, where)
        if self.problem.has_data:
            check_augmentation(config.train, self.problem.dataset, where)
            check_recipe(config, self.problem.dataset, where)
        self.target.sizes  # noqa: B018  # refuses networks that no microcontroller can run
        if config.search.accuracy_table is not None:
            self.problem.accuracy_table  # noqa: B018  # reading it finds what is malformed
        if config.search.storage is not None:
            self.open_study()
        if not self.folder.history.exists():
            self.problem.try_functions()
        samples = len(self.problem.dataset.train)
        batch_size = max(config.search.batch_size, config.train.batch_size)
        if self.problem.has_data and samples < 2 * batch_size:
            raise InputError(
                "too few training samples",
                where=config.data.name,
                expected=f"two batches of {batch_size}",
                actual=samples,
                mend="make search.batch_size and train.batch_size smaller",
            )
        logger.info(data_in_words(self.problem.dataset))
        for note in (*self.problem.dataset.notes, *config.notes):
            logger.info(note)
        devices = {"device": self.target.runtime.device_name(), "search_on": str(self.device)}
        write_atomic(self.folder.config, config.to_toml())
        self.folder.write_json(self.folder.environment, environment() | devices)
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
        watched = recorded(stage, folder.heartbeat) if ranks.writes else stage
        return cls(load_config(folder.config), folder, watched, ranks)

    def on_runtime(self, name: str) -> Run:
        """The same run, deployed on another runtime."""
        latency = self.config.latency.model_copy(update={"runtime": name})
        return Run(self.config.model_copy(update={"latency": latency}), self.folder, self.stage)

    def on_device(self, name: str) -> Run:
        """The same run, measured on another device of `devices.toml`."""
        device = find_device(name)
        stated = {"device": name, "runtime": device.runtime, "threads": device.threads}
        latency = self.config.latency.model_copy(update=stated)
        return Run(self.config.model_copy(update={"latency": latency}), self.folder, self.stage)

    @cached_property
    def problem(self) -> Problem:
        """Data, task and search space."""
        return self.given or Problem(self.config, self.where)

    @cached_property
    def target(self) -> Target:
        """Runtime, latency tables and budgets."""
        return Target(self.config, self.folder, self.problem)

    @cached_property
    def device(self) -> torch.device:
        """Where search and training run; the first access sets PyTorch's number of threads.

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
    def family(self) -> list[Run]:
        """The runs of the further budgets, each in a subfolder of this run's folder.

        Controls are compared with the model of the first budget only.
        """
        members = []
        for budget_ms in self.config.budget.family_ms:
            kept = ("confidence", "ram_kb", "flash_kb", "macs")
            budget = BudgetConfig(
                ms=budget_ms, **{key: getattr(self.config.budget, key) for key in kept}
            )
            folder = RunFolder(self.folder.path / "family" / f"{budget_ms:g}ms")
            config = self.config.model_copy(update={"budget": budget, "controls": 0})
            given = None if self.given is None else replace(self.given, config=config)
            members.append(Run(config, folder, self.stage, given=given))
        return members

    def start_member(self, main: Run) -> None:
        """Write what a member of a family takes from the main run: settings and tables."""
        self.folder.create()
        write_atomic(self.folder.config, self.config.to_toml())
        own, other = self.folder, main.folder
        files = [
            (other.environment, own.environment),
            (other.latency_table, own.latency_table),
            *zip(main.target.further_tables, self.target.further_tables, strict=True),
        ]
        if self.config.export.preprocess:
            files.append((other.preprocessing, own.preprocessing))
        for source, copy in files:
            write_atomic(copy, source.read_bytes())

    def open_study(self) -> Study:
        """The Optuna study in the storage that several searches share.

        The study's name is a hash of everything that the searches have to agree on, so that only
        searches of the same scores meet in it. Paths are left out, since each machine may keep
        its files elsewhere; the content of the data stands for them.

        Raises:
            InputError: when the storage cannot be opened.
        """
        config, dataset = self.config, self.problem.dataset
        assert config.search.storage is not None
        places = {"storage": None, "accuracy_table": None}
        stated = config.model_copy(
            update={
                "controls": 0,
                "knowledge": None,
                "data": config.data.model_copy(update={"path": None}),
                "search": config.search.model_copy(update=places),
            }
        )
        digest = hashlib.sha256(stated.to_toml().encode())
        digest.update(dataset.train.targets.tobytes() + dataset.train.inputs[:100].tobytes())
        if config.search.accuracy_table is not None:
            digest.update(repr(sorted(self.problem.accuracy_table.values())).encode())
        name = f"{config.space.name} {config.search.evaluator} {digest.hexdigest()[:12]}"
        return open_study(config.search.storage, name, "maximize", "search.storage")

    def seed(self, purpose: str) -> int:
        """A seed for one purpose of the run, independent of the others."""
        return derived_seed(self.config.seed, purpose)

    def batches(
        self, split: Split, size: int, purpose: str, augment: Augmentation | None = None
    ) -> Batches:
        """Batches of a split on the run's device, in an order that depends on their purpose."""
        dataset, seed = self.problem.dataset, self.seed(purpose)
        return Batches(split, dataset, size, seed, augment=augment, device=self.device)

    @property
    def recipe(self) -> TrainConfig:
        """The settings of the training, with those that the search chose."""
        if not self.config.search.recipe or not self.folder.recipe.exists():
            return self.config.train
        found = self.folder.read_json(self.folder.recipe).get("recipe", {})
        return with_recipe(self.config.train, found)

    def architecture(self) -> Architecture:
        """The architecture that the search chose."""
        architecture = Architecture.load(self.folder.architecture)
        self.problem.space.validate(architecture)
        return architecture

    def trained_network(self) -> Network:
        """The architecture's network with its trained weights, in eval mode on the CPU.

        Raises:
            InputError: when the weights are missing, or another architecture's.
        """
        network = self.problem.space.network(self.architecture())
        network.drop_training_parts()
        self.load_weights(network, self.folder.weights)
        return network.eval()

    def load_weights(self, network: Network, path: Path) -> None:
        """Load one of the run's weight files into the architecture's network.

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


def _shortened(kept: Config, config: Config) -> bool:
    """Whether a run's configuration differs only in what its time limit changed."""
    if kept.minutes is None:
        return False
    train = kept.train.model_copy(update={"epochs": config.train.epochs})
    return kept.model_copy(update={"train": train, "notes": config.notes}) == config
