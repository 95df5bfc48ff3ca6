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
MAX_SPACE_FILE = 100_000
"""Bytes of a file that describes a space."""


class Section(BaseModel):
    """A table of the file: unknown keys and wrong types are errors, values cannot change."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class DataConfig(Section):
    """What to learn from; see `hwnas.data.load_dataset`."""

    name: Literal[
        "fashion-mnist-slice",
        "npz",
        "folder",
        "cifar10",
        "cifar100",
        "fashion-mnist",
        "mnist",
        "masks",
        "boxes",
        "generated-segmentation",
        "generated-detection",
        "sounds",
        "generated-keywords",
        "table",
        "generated-ratings",
        "text",
        "generated-text",
        "language",
        "generated-language",
    ]
    path: str | None = None
    image_size: int | None = Field(None, ge=4, le=4096)
    sequence_length: int | None = Field(
        None, ge=2, le=4096, description="tokens of a sample, of texts"
    )
    train_limit: int | None = Field(None, ge=2)
    test_limit: int | None = Field(None, ge=2)


class SpaceConfig(Section):
    """The search space at the sizes of the deployed network; sizes of images come from the data.

    In a file, `file` alone may stand for all keys: a TOML file that holds them.
    """

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    name: str = "darts"

    @property
    def options(self) -> dict[str, Any]:
        """All keys but the name: the space checks them."""
        return dict(self.model_extra or {})


class LatencyConfig(Section):
    """Where the model will run; a table of anything else is refused."""

    runtime: str = "onnxruntime-cpu"
    batch: int = Field(1, ge=1, le=4096)
    dtype: Literal["float32"] = "float32"
    threads: int = Field(1, ge=1, le=1024)
    measure_seconds: float = Field(6.0, gt=0, description="limit for one network")
    device_measurements: str | None = Field(
        None, description="a CSV file of networks' latencies that stands for the device"
    )


class BudgetConfig(Section):
    """Absolute, or a fraction of the way from the fastest to the slowest predicted network."""

    ms: float | None = Field(None, gt=0, allow_inf_nan=False)
    fraction: float | None = Field(None, ge=0, le=1)
    family_ms: list[Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(
        default_factory=list,
        description="further budgets; the one search decodes an architecture for each",
    )
    memory_mb: float | None = Field(
        None, gt=0, description="host memory that a session of the model may take at its peak"
    )
    energy_mj: float | None = Field(
        None, gt=0, description="millijoules that an inference may take, where the device counts"
    )
    confidence: float | None = Field(
        None, ge=0.5, lt=1, description="probability with which the predicted latency keeps it"
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> BudgetConfig:
        if (self.ms is None) == (self.fraction is None):
            raise ValueError("give either ms or fraction")
        return self


class DeviceConfig(Section):
    """A further device whose budget is to be kept as its table predicts."""

    table: str
    budget_ms: float = Field(gt=0, allow_inf_nan=False)


class SearchConfig(Section):
    """The supernet, the strategy's settings, and how candidates are chosen."""

    strategy: str = Field("darts", description="as `hwnas strategies` lists them")
    settings: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="by strategy, where they differ from its own"
    )
    evaluator: Literal["supernet", "training", "zero-cost", "table"] = Field(
        "supernet", description="shared weights, a training of each architecture, a proxy, a file"
    )
    accuracy_table: str | None = Field(
        None, description="a CSV file `arch,accuracy` in percent, of the table evaluator"
    )
    storage: str | None = Field(
        None,
        description="a journal's file or a database's URL that several searches of this "
        "configuration share, each with a folder of its own; not for a supernet",
    )
    warm_start: int = Field(
        0, ge=0, description="random architectures scored by `zero_cost` before the search"
    )
    warm_start_kept: int = Field(10, ge=1, description="the best of these are proposed first")
    zero_cost: Literal["synflow", "jacob_cov", "naswot", "gradient_norm", "parameters", "macs"] = (
        Field("naswot", description="of the zero-cost evaluator and of the warm start")
    )
    evaluation_epochs: int = Field(1, ge=1, description="of the training evaluator")
    order: Literal[1, 2] = Field(1, description="of the gradient, where one is used")
    steps: int = Field(ge=1, description="of the supernet; evaluations where each is a training")
    batch_size: int = Field(64, ge=1)
    warmup: float = Field(0.3, ge=0, lt=1, description="share of steps that train weights only")
    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="of the weights")
    learning_rate: float = Field(0.025, gt=0)
    learning_rate_min: float = Field(0.001, ge=0)
    momentum: float = Field(0.9, ge=0, lt=1, description="with adamw of the gradient's mean")
    weight_decay: float = Field(3e-4, ge=0)
    gradient_clip: float = Field(5.0, gt=0)
    max_skips: int | None = Field(
        None, ge=0, description="in a cell of the most probable architecture; more is a collapse"
    )
    max_growth: float | None = Field(
        None, gt=1, description="of the Hessian's dominant eigenvalue; more is a collapse"
    )
    latency_rate: float = Field(0.1, ge=0, description="step of the budget's multiplier")
    candidates: int = Field(8, ge=1, le=100, description="best decodings that are ranked")
    max_measured: int = Field(8, ge=1, description="candidates measured before giving up")
    recalibration_batches: int = Field(8, ge=1)
    ranking_images: int = Field(2000, ge=1)
    checkpoint_every: int = Field(50, ge=1, description="steps")
    kernels: Literal["auto", "triton", "cpu", "torch"] = "auto"
    recompute: Literal["nothing", "first", "all"] = Field(
        "nothing", description="activations computed again in the backward pass, to save memory"
    )
    partial_channels: int | None = Field(
        None,
        ge=1,
        description="1 of so many goes through a cell's candidates; divides the supernet's "
        "channels, 1 for all; the strategy's own by default",
    )
    proxy: dict[str, int | float] = Field(
        default_factory=dict, description="sizes of the supernet where they differ"
    )
    sandwich: int = Field(
        0,
        ge=0,
        le=16,
        description="mixtures that train a supernet in a step between the largest architecture and "
        "the smallest: the strategy's, the others random. 0 for the strategy's alone",
    )
    distillation: float = Field(
        0.0, ge=0, le=1, description="share of the largest one's outputs in the others' targets"
    )
    shrinking: float = Field(
        0.0, ge=0, lt=1, description="share of steps over which smaller and smaller sizes join"
    )

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

    epochs: int = Field(ge=0, description="0 to deploy inherited weights as they are")
    inherit: bool = Field(
        False, description="begin with the supernet's weights, in place of random ones"
    )
    batch_size: int = Field(96, ge=1)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = Field(0.025, gt=0)
    learning_rate_min: float = Field(0.0, ge=0)
    warmup: float = Field(0.0, ge=0, lt=1, description="share of steps")
    momentum: float = Field(0.9, gt=0, lt=1, description="with adamw of the gradient's mean")
    nesterov: bool = Field(False, description="of sgd")
    weight_decay: float = Field(3e-4, ge=0)
    gradient_clip: float = Field(5.0, gt=0)
    label_smoothing: float = Field(0.1, ge=0, lt=1, description="where targets are classes")
    crop_padding: int = Field(0, ge=0)
    flip: bool = False
    cutout: int = Field(0, ge=0)
    drop_path: float = Field(0.0, ge=0, lt=1, description="at the last step; rises linearly")
    auxiliary_weight: float = Field(0.0, ge=0, description="0 for no auxiliary head")
    ema_decay: float = Field(0.999, ge=0, lt=1)
    mixed_precision: bool = True
    checkpoint_every: int = Field(100, ge=1, description="steps")

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
    max_accuracy_drop: float = Field(0.01, ge=0, le=1, description="of the task's score")
    min_accuracy: float = Field(0.0, ge=0, le=1, description="of the task's score")
    measure_seconds: float = Field(60.0, gt=0, description="limit of the latency measurement")
    compare: list[str] = Field(
        default_factory=list,
        description="further runtimes of ONNX models whose outputs have to be the same, as "
        '["openvino-cpu"]',
    )
    max_session_mb: float | None = Field(
        None,
        gt=0,
        description="what loading and running the model may allocate on a CPU; 8000, or 80 % of "
        "the free memory where that is less, if none is stated",
    )
    max_session_seconds: int = Field(
        120,
        ge=1,
        description="processor time that loading it and three runs may take, and the time of a "
        "later inference",
    )


class Config(Section):
    """A complete run."""

    seed: int = Field(0, ge=0, lt=2**31)
    device: Literal["cpu", "cuda"] = "cpu"
    threads: int = Field(2, ge=1, le=1024, description="for search and training on a CPU")
    data: DataConfig
    space: SpaceConfig
    latency: LatencyConfig = LatencyConfig()
    budget: BudgetConfig
    devices: list[DeviceConfig] = Field(default_factory=list)
    search: SearchConfig
    train: TrainConfig
    check: CheckConfig = CheckConfig()

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
