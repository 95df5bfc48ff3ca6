"""The settings of a run: one frozen pydantic model for each table of a configuration."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import tomli_w
from pydantic import ConfigDict, Field, model_validator

from hwnas.config.augmentation import AugmentationConfig
from hwnas.config.base import Section
from hwnas.config.data import DataConfig
from hwnas.config.deployment import CheckConfig, ExportConfig
from hwnas.config.search import SearchConfig
from hwnas.config.shrink import ShrinkConfig
from hwnas.config.task import TaskConfig
from hwnas.config.transfer import TransferConfig


class SpaceConfig(Section):
    """The search space at the sizes of the deployed network; sizes of inputs come from the data.

    The other keys are the options of the space (see the page on spaces). In a file, `file` alone
    may replace all keys: it names a TOML file that contains them.
    """

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    name: str = Field("darts", description="the search space, one of `hwnas spaces`")

    @property
    def options(self) -> dict[str, Any]:
        """All keys but the name; the space checks them."""
        return dict(self.model_extra or {})


class LatencyConfig(Section):
    """Where the model will run; a latency table for anything else is refused."""

    runtime: str = Field("onnxruntime-cpu", description="one of the runtimes in `hwnas info`")
    batch: int = Field(1, ge=1, le=4096, description="samples in one inference")
    dtype: Literal["float32"] = Field(
        "float32", description="number format of the searched network"
    )
    threads: int = Field(1, ge=1, le=1024, description="threads of the runtime")
    operator_seconds: float = Field(
        0.5, ge=0.05, description="time in seconds to measure one operator, on average"
    )
    measure_seconds: float = Field(
        6.0, gt=0, description="time limit in seconds to measure one candidate network"
    )
    device: str | None = Field(
        None,
        description="a name of devices.toml: everything is measured on that device, which is "
        "elsewhere. Its runtime and threads are used where they are not stated. Default: this "
        "machine",
    )
    device_measurements: str | None = Field(
        None,
        description="a CSV file with latencies of networks on a device that is elsewhere "
        "(columns arch, latency_ms); nothing is measured on this machine then",
    )


class BudgetConfig(Section):
    """The latency budget, in milliseconds or as a fraction; and further limits.

    A fraction is the way from the fastest predicted network of the space (0) to the slowest (1).
    """

    ms: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="latency budget in milliseconds"
    )
    fraction: float | None = Field(
        None,
        ge=0,
        le=1,
        description="latency budget between the fastest predicted network (0) and the slowest (1)",
    )
    family_ms: list[Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(
        default_factory=list,
        description="further budgets in milliseconds; one search finds an architecture for each",
    )
    memory_mb: float | None = Field(
        None,
        gt=0,
        description="peak host memory in MB that a session of the model may take",
    )
    energy_mj: float | None = Field(
        None,
        gt=0,
        description="energy in millijoules that one inference may take, where the device "
        "measures it",
    )
    load_ms: float | None = Field(
        None,
        gt=0,
        description="time in milliseconds that a new process may take to create a session",
    )
    first_ms: float | None = Field(
        None,
        gt=0,
        description="time in milliseconds that the first inference of a new process may take",
    )
    ram_kb: float | None = Field(
        None,
        gt=0,
        description="working memory in kB of 1,024 bytes that the activations of an int8 model may "
        "take on a microcontroller, with input and output; exact, as are the next two",
    )
    flash_kb: float | None = Field(
        None,
        gt=0,
        description="flash in kB of 1,024 bytes that its weights, tables and code may take",
    )
    macs: float | None = Field(
        None, gt=0, description="multiply-accumulates that one inference may take"
    )
    confidence: float | None = Field(
        None,
        ge=0.5,
        lt=1,
        description="probability with which the predicted latency has to keep the budget; without "
        "it, the mean prediction has to",
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> BudgetConfig:
        if (self.ms is None) == (self.fraction is None):
            raise ValueError("give either ms or fraction")
        return self

    @property
    def has_sizes(self) -> bool:
        """Whether there is a limit of RAM, flash or multiply-accumulates."""
        return any(most is not None for most in (self.ram_kb, self.flash_kb, self.macs))


class DeviceConfig(Section):
    """A further device, whose budget has to be kept too.

    With a name it is measured: its table, unless one is given, and the finished model. Without one
    the predictions of its table have to keep the budget.
    """

    name: str | None = Field(None, description="a name of devices.toml, to measure on the device")
    table: str | None = Field(
        None, description="latency table of the device: a file or a name that ships"
    )
    budget_ms: float = Field(
        gt=0, allow_inf_nan=False, description="latency budget on the device in milliseconds"
    )

    @model_validator(mode="after")
    def _is_known(self) -> DeviceConfig:
        if self.name is None and self.table is None:
            raise ValueError("give its name or its table")
        return self


class TrainConfig(AugmentationConfig, TransferConfig):
    """Training of the architecture that was found."""

    epochs: int = Field(
        ge=0, description="training epochs; 0 deploys inherited weights without training"
    )
    inherit: bool = Field(
        False, description="start from the supernet's weights instead of random ones"
    )
    batch_size: int = Field(96, ge=1, description="samples in one step")
    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="optimizer of the weights")
    learning_rate: float = Field(
        0.025, gt=0, description="learning rate at the start of a cosine schedule"
    )
    learning_rate_min: float = Field(
        0.0, ge=0, description="learning rate at the end of the cosine schedule"
    )
    warmup: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the steps in which the learning rate rises to its start value",
    )
    momentum: float = Field(
        0.9, gt=0, lt=1, description="momentum of sgd, or the first beta of adamw"
    )
    nesterov: bool = Field(False, description="Nesterov momentum, with sgd")
    weight_decay: float = Field(3e-4, ge=0, description="weight decay of the weights")
    gradient_clip: float = Field(5.0, gt=0, description="largest norm of the gradient")
    label_smoothing: float = Field(
        0.1, ge=0, lt=1, description="label smoothing, where targets are classes"
    )
    drop_path: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="probability to drop a path of a cell; rises linearly to this at the last step",
    )
    auxiliary_weight: float = Field(
        0.0, ge=0, description="weight of the auxiliary head's loss; 0 for no auxiliary head"
    )
    adversarial_weight: float = Field(
        0.0,
        ge=0,
        description="weight of a discriminator's judgement in the loss of a generator of images; "
        "0 for no discriminator",
    )
    ema_decay: float = Field(
        0.999, ge=0, lt=1, description="decay of the exponential moving average of the weights"
    )
    mixed_precision: bool = Field(True, description="train in bfloat16 where the device can")
    checkpoint_every: int = Field(100, ge=1, description="steps between checkpoints")

    @model_validator(mode="after")
    def _goes_together(self) -> TrainConfig:
        if self.nesterov and self.optimizer != "sgd":
            raise ValueError("nesterov needs optimizer = sgd")
        if not self.epochs and not self.inherit:
            raise ValueError("epochs = 0 needs inherit = true")
        if self.grow and (self.start is not None or self.inherit):
            raise ValueError("grow starts from a network of its own: neither from nor inherit")
        if self.start is not None and self.inherit:
            raise ValueError("weights come from one place: give either from or inherit")
        return self


class Config(Section):
    """A complete run."""

    seed: int = Field(0, ge=0, lt=2**31, description="seed of everything random")
    device: Literal["cpu", "cuda"] = Field("cpu", description="where search and training run")
    threads: int = Field(2, ge=1, le=1024, description="threads of search and training on a CPU")
    data: DataConfig
    task: TaskConfig = TaskConfig()
    space: SpaceConfig
    latency: LatencyConfig = LatencyConfig()
    budget: BudgetConfig
    devices: list[DeviceConfig] = Field(
        default_factory=list, description="further devices whose budgets have to be kept"
    )
    search: SearchConfig
    train: TrainConfig
    shrink: ShrinkConfig | None = Field(
        None, description="set in runs of `hwnas shrink`, which search in a trained network"
    )
    export: ExportConfig = ExportConfig()
    check: CheckConfig = CheckConfig()
    knowledge: str | None = Field(
        None,
        description="a knowledge base, an SQLite file or the URL of a database: the search begins "
        "from what it says of similar data, and the finished run is added to it",
    )
    controls: int = Field(
        0,
        ge=0,
        le=100,
        description="random networks that are trained for comparison after the run's own model, "
        "and with them the largest ones within the budget and hand-made ones; 0 for none",
    )
    minutes: float | None = Field(
        None,
        gt=0,
        description="time limit of a run without its controls, each time that it is started: "
        "measurements and the search get shares of it, and the epochs of training are as many as "
        "the rest allows, at most those that are stated",
    )
    notes: list[str] = Field(
        default_factory=list,
        description="what hwnas chose where the file stated nothing, and why; has no effect",
    )

    def to_toml(self) -> str:
        """The configuration as a file that `load_config` reads."""
        return tomli_w.dumps(self.model_dump(exclude_none=True, by_alias=True))
