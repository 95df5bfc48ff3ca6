"""The settings of a run: one frozen pydantic model for each table of a configuration."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import tomli_w
from pydantic import ConfigDict, Field, model_validator

from hwnas.config.augmentation import AugmentationConfig
from hwnas.config.base import Section
from hwnas.config.data import DataConfig
from hwnas.config.deployment import CheckConfig, ExportConfig
from hwnas.config.recipe import SEARCHED, RangeConfig
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


class SearchConfig(Section):
    """The supernet, the search strategy, and how candidates are chosen."""

    strategy: str = Field("darts", description="the search strategy, one of `hwnas strategies`")
    settings: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="settings of single strategies, by the strategy's name, where they differ "
        "from its defaults",
    )
    evaluator: Literal["supernet", "training", "zero-cost", "table", "function", "size"] = Field(
        "supernet",
        description="how architectures are scored: with shared weights, by training each one, by "
        "a zero-cost proxy, from a file, by the function `evaluate` that was given in Python, or "
        "by size alone, without any evaluation; for strategy = largest the default is size",
    )
    accuracy_table: str | None = Field(
        None,
        description="a CSV file with accuracies in percent for evaluator = table (columns arch, "
        "accuracy)",
    )
    storage: str | None = Field(
        None,
        description="a journal file or database URL through which several searches of this "
        "configuration share their evaluations, each with its own run folder; not for a supernet",
    )
    warm_start: int = Field(
        0,
        ge=0,
        description="random architectures that are scored by `zero_cost` before the search",
    )
    warm_start_kept: int = Field(
        10, ge=1, description="the best of these are proposed to the strategy first"
    )
    zero_cost: Literal["synflow", "jacob_cov", "naswot", "gradient_norm", "parameters", "macs"] = (
        Field(
            "naswot",
            description="the zero-cost proxy of evaluator = zero-cost and of the warm start",
        )
    )
    evaluation_epochs: int = Field(
        1, ge=1, description="training epochs of one architecture with evaluator = training"
    )
    order: Literal[1, 2] = Field(
        1, description="first or second order gradient of the architecture, where one is used"
    )
    steps: int = Field(
        ge=1,
        description="training steps of the supernet; with other evaluators, the number of "
        "evaluations",
    )
    batch_size: int = Field(64, ge=1, description="samples in one step of the supernet")
    warmup: float = Field(
        0.3, ge=0, lt=1, description="share of the steps that train only weights, at the start"
    )
    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="optimizer of the weights")
    learning_rate: float = Field(
        0.025, gt=0, description="learning rate of the weights at the start of a cosine schedule"
    )
    learning_rate_min: float = Field(
        0.001, ge=0, description="learning rate at the end of the cosine schedule"
    )
    momentum: float = Field(
        0.9, ge=0, lt=1, description="momentum of sgd, or the first beta of adamw"
    )
    weight_decay: float = Field(3e-4, ge=0, description="weight decay of the weights")
    gradient_clip: float = Field(5.0, gt=0, description="largest norm of the weights' gradient")
    max_skips: int | None = Field(
        None,
        ge=0,
        description="skip connections in a cell of the most probable architecture above which "
        "the search counts as collapsed and stops",
    )
    max_growth: float | None = Field(
        None,
        gt=1,
        description="growth factor of the dominant eigenvalue of the architecture's Hessian "
        "above which the search counts as collapsed and stops",
    )
    minutes: float | None = Field(
        None,
        gt=0,
        description="time limit of the search, which ends after the step in which it is over; "
        "schedules are those of all `steps`",
    )
    until: float | None = Field(
        None,
        description="score of a full evaluation, such as an accuracy from 0 to 1, from which on a "
        "search by evaluations ends",
    )
    patience: int | None = Field(
        None,
        ge=1,
        description="evaluations without a better score after which a search by evaluations ends",
    )
    penalties: dict[Literal["jacobian", "curvature"], Annotated[float, Field(ge=0)]] = Field(
        {}, description="weights of terms of the architecture's objective: squared norm of the "
        "Jacobian by the inputs, trace of the Hessian by the mixing weights (gradient strategies)",
    )  # fmt: skip
    recipe: dict[str, RangeConfig] = Field(
        {},
        description="settings of `[train]` that are searched beside the architecture, each with "
        "`low` and `high` (and `log = true`) or `options`, and with the user's `prior` and its "
        "`confidence` (low, medium, high); for evaluator = training",
    )
    recipe_sampler: Literal["tpe", "random", "quasi-random"] = Field(
        "tpe", description="the sampler of Optuna that proposes the settings of the recipe"
    )
    latency_rate: float = Field(
        0.1, ge=0, description="step size of the Lagrange multiplier of the budget"
    )
    candidates: int = Field(
        8, ge=1, le=100, description="best decoded architectures that are ranked at the end"
    )
    max_measured: int = Field(
        8, ge=1, description="candidates that are measured at most before the search gives up"
    )
    finalists: int = Field(
        0,
        ge=0,
        le=100,
        description="candidates within the budget that are trained before one is chosen, by "
        "successive halving; 0 chooses by `evaluator`",
    )
    finalist_epochs: int = Field(
        1, ge=1, description="training epochs of a finalist before each halving"
    )
    size_weight: float = Field(
        2.0,
        ge=0,
        description="what size adds to the strategy's scores of decoded candidates, in standard "
        "deviations; with 0, half of the finalists are not the largest networks either, and "
        "nothing is learned about the effect of their size",
    )
    recalibration_batches: int = Field(
        8, ge=1, description="batches that recalibrate batch norm statistics of a candidate"
    )
    ranking_images: int = Field(
        2000, ge=1, description="validation samples at most that rank the candidates"
    )
    checkpoint_every: int = Field(50, ge=1, description="steps between checkpoints")
    kernels: Literal["auto", "triton", "cpu", "torch"] = Field(
        "auto",
        description="kernels of the mixed operators: Triton, C++, plain PyTorch, or the fastest "
        "that is available",
    )
    recompute: Literal["nothing", "first", "all"] = Field(
        "nothing",
        description="activations that the backward pass computes again, to save memory",
    )
    cuda_graph: bool = Field(
        False,
        description="on a GPU, record what a step launches and replay it (not tried on a GPU yet)",
    )
    partial_channels: int | None = Field(
        None,
        ge=1,
        description="one in so many channels goes through a cell's candidate operators (PC-DARTS);"
        " has to divide the supernet's channels; 1 for all. Default: the strategy's own",
    )
    proxy: dict[str, int | float] = Field(
        default_factory=dict,
        description="sizes of the supernet, where they differ from those of the deployed network",
    )
    sandwich: int = Field(
        0,
        ge=0,
        le=16,
        description="architectures that train the supernet in each step between the largest one "
        "and the smallest (sandwich rule); 0 trains the strategy's alone",
    )
    distillation: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the largest architecture's outputs in the targets of the others",
    )
    shrinking: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the steps over which smaller sizes join the training step by step "
        "(progressive shrinking)",
    )

    @model_validator(mode="before")
    @classmethod
    def _largest_needs_no_evaluation(cls, stated: Any) -> Any:
        is_largest = isinstance(stated, dict) and stated.get("strategy") == "largest"
        return {"evaluator": "size", **stated} if is_largest else stated

    @model_validator(mode="after")
    def _evaluator_has_what_it_needs(self) -> SearchConfig:
        if self.evaluator == "size" and (self.strategy != "largest" or self.warm_start):
            raise ValueError("evaluator = size is for strategy = largest without a warm_start")
        if (self.evaluator == "table") != (self.accuracy_table is not None):
            raise ValueError("evaluator = table needs accuracy_table, and nothing else does")
        evaluates_each = self.evaluator not in ("supernet", "size")
        if self.storage is not None and not evaluates_each:
            raise ValueError("storage is for evaluators of single architectures, not for supernet")
        if not evaluates_each and (self.until is not None or self.patience is not None):
            raise ValueError("until and patience are for evaluators of single architectures")
        if self.order == 2 and self.optimizer != "sgd":
            raise ValueError("order = 2 unrolls a step of optimizer = sgd")
        if self.distillation and not self.sandwich:
            raise ValueError("distillation needs the largest architecture in each step: sandwich")
        unknown = sorted(set(self.recipe) - set(SEARCHED))
        if unknown:
            known = ", ".join(SEARCHED)
            raise ValueError(f"recipe has {unknown[0]}, and can have {known}")
        if self.recipe and (self.evaluator != "training" or self.storage or self.finalists):
            raise ValueError("recipe needs evaluator = training, without storage and finalists")
        if self.finalists and self.evaluator in ("table", "function"):
            raise ValueError("finalists are trained, and these evaluators need no training")
        if self.finalists == 1 or self.finalists > self.max_measured:
            raise ValueError("finalists are 0, or 2 up to max_measured, since each is measured")
        if self.shrinking > self.warmup:
            raise ValueError("warmup has to last as long as shrinking: what it judges is trained")
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
