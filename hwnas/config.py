"""The configuration of a run: TOML in, frozen and typed settings out."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hwnas.errors import InputError

DEFAULT_CONFIG = "default"
Milliseconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
MAX_SPACE_FILE = 100_000
"""Bytes of a file that describes a space."""


class Section(BaseModel):
    """A table of the file: unknown keys and wrong types are errors, values cannot change.

    The docstring below a field is its description, also in `docs/settings.md`.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True
    )


class DataConfig(Section):
    """What to learn from; see `hwnas.data.load_dataset`."""

    # fmt: off
    name: Literal[
        "fashion-mnist-slice", "npz", "folder", "cifar10", "cifar100", "fashion-mnist", "mnist",
        "masks", "boxes", "generated-segmentation", "generated-detection", "sounds",
        "generated-keywords", "table", "generated-ratings", "text", "generated-text", "language",
        "generated-language",
    ]
    # fmt: on
    """The dataset, which also decides the task."""
    path: str | None = None
    """The file or folder to read; only for datasets that do not ship."""
    image_size: int | None = Field(None, ge=4, le=4096)
    """Side in pixels of images, which are cropped and resized to it; by default the files' size."""
    sequence_length: int | None = Field(None, ge=2, le=4096)
    """Tokens in a sample of text; 32 by default."""
    train_limit: int | None = Field(None, ge=2)
    """Use only so many training samples; all by default."""
    test_limit: int | None = Field(None, ge=2)
    """Use only so many test samples; all by default."""


class SpaceConfig(Section):
    """The search space at the sizes of the deployed network; sizes of images come from the data.

    In a file, `file` alone may stand for all keys: a TOML file that holds them.
    """

    model_config = ConfigDict(extra="allow")

    name: str = "darts"
    """The space, as `hwnas spaces` lists them."""

    @property
    def options(self) -> dict[str, Any]:
        """All keys but the name: the space checks them."""
        return dict(self.model_extra or {})


class LatencyConfig(Section):
    """Where the model will run; a table of anything else is refused."""

    runtime: str = "onnxruntime-cpu"
    """The runtime, as `hwnas info` lists them."""
    batch: int = Field(1, ge=1, le=4096)
    """Samples in one inference."""
    dtype: Literal["float32"] = "float32"
    """Number format of the measured model."""
    threads: int = Field(1, ge=1, le=1024)
    """Threads of the runtime."""
    measure_seconds: float = Field(6.0, gt=0)
    """Time limit in seconds for measuring one candidate network."""
    device_measurements: str | None = None
    """A CSV file with latencies of networks, which are used in place of measurements."""


class BudgetConfig(Section):
    """Absolute, or a fraction of the way from the fastest to the slowest predicted network."""

    ms: Milliseconds | None = None
    """Latency budget in milliseconds."""
    fraction: float | None = Field(None, ge=0, le=1)
    """Latency budget between the fastest network of the space (0) and the slowest (1), or `ms`."""
    family_ms: list[Milliseconds] = Field(default_factory=list)
    """Further latency budgets in milliseconds; the same search finds an architecture for each."""
    memory_mb: float | None = Field(None, gt=0)
    """Limit in MB of the peak host memory of a session with the model."""
    energy_mj: float | None = Field(None, gt=0)
    """Limit in millijoules of the energy of one inference; needs an energy counter."""
    confidence: float | None = Field(None, ge=0.5, lt=1)
    """Probability with which the predicted latency keeps the budget; by default its mean does."""

    @model_validator(mode="after")
    def _exactly_one(self) -> BudgetConfig:
        if (self.ms is None) == (self.fraction is None):
            raise ValueError("give either ms or fraction")
        return self


class DeviceConfig(Section):
    """A further device whose budget is to be kept as its table predicts."""

    table: str
    """Its latency table: a file, or the name of one that ships."""
    budget_ms: Milliseconds
    """Its latency budget in milliseconds."""


class SearchConfig(Section):
    """The supernet, the strategy's settings, and how candidates are chosen."""

    strategy: str = "darts"
    """The strategy, as `hwnas strategies` lists them."""
    settings: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Settings of the strategies, a table for each name: see below."""
    evaluator: Literal["supernet", "training", "zero-cost", "table"] = "supernet"
    """How an architecture is judged: by the shared weights of a supernet, by a short training of
    its own, by a zero-cost score, or by a file of accuracies."""
    accuracy_table: str | None = None
    """For `evaluator = table`: a CSV file with the columns `arch,accuracy`, in percent."""
    storage: str | None = None
    """A journal file or a database URL through which several searches of this configuration share
    their evaluations; each has a run folder of its own. Not for `evaluator = supernet`."""
    warm_start: int = Field(0, ge=0)
    """Number of random architectures scored by `zero_cost` before the search."""
    warm_start_kept: int = Field(10, ge=1)
    """How many of the best of these are proposed first."""
    zero_cost: Literal["synflow", "jacob_cov", "naswot", "gradient_norm", "parameters", "macs"] = (
        "naswot"
    )
    """The score of the zero-cost evaluator and of the warm start."""
    evaluation_epochs: int = Field(1, ge=1)
    """Epochs for which the training evaluator trains each architecture."""
    order: Literal[1, 2] = 1
    """First or second order of the gradient, for strategies by gradient."""
    steps: int = Field(ge=1)
    """Training steps of the supernet, or number of evaluations with the other evaluators."""
    batch_size: int = Field(64, ge=1)
    """Samples in a step of the supernet."""
    warmup: float = Field(0.3, ge=0, lt=1)
    """Share of the steps, from the first on, that train the weights only."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """Optimizer of the supernet's weights."""
    learning_rate: float = Field(0.025, gt=0)
    """Initial learning rate of the weights."""
    learning_rate_min: float = Field(0.001, ge=0)
    """Learning rate of the weights at the end of the cosine schedule."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of the weights; for adamw its first beta."""
    weight_decay: float = Field(3e-4, ge=0)
    """Weight decay of the weights."""
    gradient_clip: float = Field(5.0, gt=0)
    """Largest norm of the weights' gradient in a step."""
    max_skips: int | None = Field(None, ge=0)
    """Stop when a cell of the most probable architecture has more skip connections (a collapse)."""
    max_growth: float | None = Field(None, gt=1)
    """Stop when the Hessian's dominant eigenvalue grows by more than this factor (a collapse)."""
    latency_rate: float = Field(0.1, ge=0)
    """Step size of the Lagrange multiplier of the latency budget."""
    candidates: int = Field(8, ge=1, le=100)
    """How many of the best architectures are decoded and ranked."""
    max_measured: int = Field(8, ge=1)
    """How many candidates are measured before the search gives up."""
    recalibration_batches: int = Field(8, ge=1)
    """Batches from which batch norms are recalibrated before a ranking."""
    ranking_images: int = Field(2000, ge=1)
    """Validation samples on which the candidates are ranked."""
    checkpoint_every: int = Field(50, ge=1)
    """Steps between two checkpoints."""
    kernels: Literal["auto", "triton", "cpu", "torch"] = "auto"
    """Implementation of the mixed operators; `auto`: Triton on CUDA, C++ on CPUs."""
    recompute: Literal["nothing", "first", "all"] = "nothing"
    """Which activations the backward pass computes again, to save memory."""
    partial_channels: int | None = Field(None, ge=1)
    """Partial channel connections: one in so many goes through a cell's candidates. Divides
    the supernet's channels; 1 for all of them; by default the strategy decides."""
    proxy: dict[str, int | float] = Field(default_factory=dict)
    """Options of the space that are different for the supernet, such as `{channels = 8}`."""
    sandwich: int = Field(0, ge=0, le=16)
    """Sandwich rule: a step trains the largest architecture, the smallest and so many mixtures:
    the strategy's, and random ones. 0 trains the strategy's alone."""
    distillation: float = Field(0.0, ge=0, le=1)
    """In-place distillation: share of the largest architecture's outputs in the targets of the
    others; needs `sandwich` and a task of classes."""
    shrinking: float = Field(0.0, ge=0, lt=1)
    """Progressive shrinking: share of the steps over which smaller kernels, then depths, then
    expansions join the largest ones; at most `warmup`."""

    @model_validator(mode="after")
    def _evaluator_has_what_it_needs(self) -> SearchConfig:
        if (self.evaluator == "table") != (self.accuracy_table is not None):
            raise ValueError("evaluator = table needs accuracy_table, and nothing else does")
        if self.storage is not None and self.evaluator == "supernet":
            raise ValueError("storage is for evaluators of single architectures, not for supernet")
        if self.order == 2 and self.optimizer != "sgd":
            raise ValueError("order = 2 unrolls a step of optimizer = sgd")
        if self.distillation and not self.sandwich:
            raise ValueError("distillation needs the largest architecture in each step: sandwich")
        if self.shrinking > self.warmup:
            raise ValueError("warmup has to last as long as shrinking: what it judges is trained")
        return self


class TrainConfig(Section):
    """Training of the found architecture."""

    epochs: int = Field(ge=0)
    """Passes over the training data; 0 deploys inherited weights as they are."""
    inherit: bool = False
    """Start from the supernet's weights instead of random ones; for `elastic` and `vit`."""
    batch_size: int = Field(96, ge=1)
    """Samples in a step."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """The optimizer."""
    learning_rate: float = Field(0.025, gt=0)
    """Largest learning rate."""
    learning_rate_min: float = Field(0.0, ge=0)
    """Learning rate at the end of the cosine schedule."""
    warmup: float = Field(0.0, ge=0, lt=1)
    """Share of the steps over which the learning rate rises."""
    momentum: float = Field(0.9, gt=0, lt=1)
    """Momentum; for adamw its first beta."""
    nesterov: bool = False
    """Nesterov momentum; only for sgd."""
    weight_decay: float = Field(3e-4, ge=0)
    """Weight decay."""
    gradient_clip: float = Field(5.0, gt=0)
    """Largest norm of the gradient in a step."""
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    """Label smoothing; only where targets are classes."""
    crop_padding: int = Field(0, ge=0)
    """Augmentation: pixels of padding before a random crop; 0 for no crops."""
    flip: bool = False
    """Augmentation: random horizontal flips."""
    cutout: int = Field(0, ge=0)
    """Augmentation: side in pixels of a square that is erased; 0 for none."""
    drop_path: float = Field(0.0, ge=0, lt=1)
    """Probability of drop path at the last step, to which it rises linearly."""
    auxiliary_weight: float = Field(0.0, ge=0)
    """Weight of the auxiliary head's loss; 0 for no auxiliary head."""
    ema_decay: float = Field(0.999, ge=0, lt=1)
    """Decay of the weights' moving average, which is deployed."""
    mixed_precision: bool = True
    """Automatic mixed precision; only on CUDA."""
    checkpoint_every: int = Field(100, ge=1)
    """Steps between two checkpoints."""

    @model_validator(mode="after")
    def _goes_together(self) -> TrainConfig:
        if self.nesterov and self.optimizer != "sgd":
            raise ValueError("nesterov needs optimizer = sgd")
        if not self.epochs and not self.inherit:
            raise ValueError("epochs = 0 needs inherit = true")
        return self


class CheckConfig(Section):
    """Limits of the gates."""

    min_sqnr_db: float = 80.0
    """Least signal-to-quantisation-noise ratio of the outputs, in dB, of a float32 model."""
    max_accuracy_drop: float = Field(0.01, ge=0, le=1)
    """Most that the exported model may lose of the task's score, whatever its name."""
    min_accuracy: float = Field(0.0, ge=0, le=1)
    """Least score of the exported model, whatever its name."""
    measure_seconds: float = Field(60.0, gt=0)
    """Time limit in seconds of the latency measurement."""
    compare: list[str] = Field(default_factory=list)
    """Further runtimes whose outputs have to be the same, such as `["openvino-cpu"]`."""
    max_session_mb: float | None = Field(None, gt=0)
    """Limit in MB of what the model may allocate; 8000 or 80 % of the free memory, if less."""
    max_session_seconds: int = Field(120, ge=1)
    """Limit in seconds for loading the model and three runs, and for each later inference."""


class Config(Section):
    """A complete run."""

    seed: int = Field(0, ge=0, lt=2**31)
    """Seed of everything random."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where to search and train."""
    threads: int = Field(2, ge=1, le=1024)
    """CPU threads for search and training."""
    data: DataConfig
    """What to learn from."""
    space: SpaceConfig
    """What may be chosen."""
    latency: LatencyConfig = LatencyConfig()
    """Where the model will run and how it is measured."""
    budget: BudgetConfig
    """What the model has to keep."""
    devices: list[DeviceConfig] = Field(default_factory=list)
    """Further devices, each with a budget of its own."""
    search: SearchConfig
    """How to search."""
    train: TrainConfig
    """How to train what was found."""
    check: CheckConfig = CheckConfig()
    """Limits of the gates."""

    def to_toml(self) -> str:
        """The configuration as a file that `load_config` reads."""
        return tomli_w.dumps(self.model_dump(exclude_none=True))


def load_config(source: str | Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """Read a configuration.

    Args:
        source: a TOML file, or the name of a configuration that ships; the default one if None.
        overrides: `key=value` with dotted keys and TOML values, `train.epochs=3`; a value that
            is no TOML is taken as a string.

    Raises:
        InputError: naming the file and key, for what is missing, unknown or of the wrong type.
    """
    text, where = _read(source)
    document = _parse_toml(text, where)
    for override in overrides:
        _apply(document, override)
    space = document.get("space")
    if isinstance(space, dict) and "file" in space:
        document["space"] = _space_of_file(space, where)
    return parse_config(document, where)


def read_space_file(path: str | Path) -> dict[str, Any]:
    """The table `[space]` of a configuration in a file of its own.

    Raises:
        InputError: when the file is missing, too long, no TOML, or names no space.
    """
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_SPACE_FILE + 1)
        text = content.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("cannot be read", where=str(path), actual=error) from None
    if len(content) > MAX_SPACE_FILE:
        raise InputError("too long", where=str(path), expected=f"at most {MAX_SPACE_FILE} bytes")
    document = _parse_toml(text, str(path))
    if not isinstance(document.get("name"), str):
        raise InputError("missing name", where=f"{path}: name", expected='a space, as "macro"')
    return document


def _space_of_file(space: dict[str, Any], where: str) -> dict[str, Any]:
    """What `space.file` stands for."""
    path, others = space["file"], sorted(set(space) - {"file"})
    if not isinstance(path, str):
        raise InputError("malformed", where=f"{where}: space.file", expected="a path", actual=path)
    if others:
        raise InputError(
            "a space in a file has no other keys",
            where=f"{where}: space.file",
            actual=", ".join(others),
            mend="state them in the file",
        )
    return read_space_file(path)


def _parse_toml(text: str, where: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError("not TOML", where=where, actual=error) from None


def read_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """The document that `key=value` overrides alone make.

    Raises:
        InputError: when one is malformed.
    """
    document: dict[str, Any] = {}
    for override in overrides:
        _apply(document, override)
    return document


def parse_config(document: dict[str, Any], where: str = "configuration") -> Config:
    """Check a document against the schema; `where` names its file in errors."""
    try:
        return Config.model_validate(document)
    except ValidationError as error:
        raise InputError(*_first_error(error, where)) from None


def with_absolute_paths(config: Config) -> Config:
    """Files of the configuration, found again from another working directory."""

    def absolute(path: str | None) -> str | None:
        return None if path is None else str(Path(path).expanduser().absolute())

    measurements = absolute(config.latency.device_measurements)
    storage = config.search.storage
    if storage is not None and "://" not in storage:
        storage = absolute(storage)
    elif storage is not None and storage.startswith("sqlite:///"):
        storage = f"sqlite:///{absolute(storage.removeprefix('sqlite:///'))}"
    search = {"accuracy_table": absolute(config.search.accuracy_table), "storage": storage}
    tables = [
        # The name of a table that ships stays a name.
        d.model_copy(update={"table": absolute(d.table)}) if Path(d.table).exists() else d
        for d in config.devices
    ]
    return config.model_copy(
        update={
            "data": config.data.model_copy(update={"path": absolute(config.data.path)}),
            "latency": config.latency.model_copy(update={"device_measurements": measurements}),
            "search": config.search.model_copy(update=search),
            "devices": tables,
        }
    )


def shipped_configs() -> list[str]:
    """Names of the configurations that ship."""
    files = resources.files("hwnas.configs").iterdir()
    return sorted(f.name.removesuffix(".toml") for f in files if f.name.endswith(".toml"))


def _read(source: str | Path | None) -> tuple[str, str]:
    name = str(source or DEFAULT_CONFIG)
    if name in shipped_configs():
        shipped = resources.files("hwnas.configs") / f"{name}.toml"
        return shipped.read_text(), f"{name}.toml"
    try:
        return Path(name).read_text(), name
    except FileNotFoundError:
        names = ", ".join(shipped_configs())
        raise InputError(
            "no such configuration", where=name, expected=f"a TOML file or one of {names}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("cannot be read", where=name, actual=error) from None


def _apply(document: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise InputError("malformed override", where="--set", expected="key=value", actual=override)
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *path, last = key.split(".")
    table = document
    for part in path:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise InputError("not a table", where=f"--set {key}", actual=part)
    # The two ways to state a budget exclude each other: the one set last counts.
    if path == ["budget"] and last in ("ms", "fraction"):
        table.pop("ms", None)
        table.pop("fraction", None)
    # A file stands for the whole table.
    if path == ["space"] and last == "file":
        table.clear()
    table[last] = value


def _first_error(error: ValidationError, where: str) -> tuple[str]:
    # What is wrong says more than what is missing.
    first = min(error.errors(), key=lambda e: e["type"] == "missing")
    key = ".".join(str(part) for part in first["loc"])
    given = first["input"]
    actual = "" if isinstance(given, dict) else f", got {given!r}"
    message = {
        "extra_forbidden": "unknown key",
        "missing": "missing key",
    }.get(first["type"], first["msg"])
    more = len(error.errors()) - 1
    rest = f" (and {more} more)" if more else ""
    return (f"{where}: {key}: {message}{actual}{rest}",)
