"""The section of a configuration about the search."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from hwnas.config.base import Section
from hwnas.config.recipe import SEARCHED, RangeConfig


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
    start: str | None = Field(
        None,
        alias="from",
        description="a safetensors file with weights that the supernet begins with, as "
        "`hwnas meta-train` writes them; tensors of the same name are taken over, their first "
        "channels where shapes differ",
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
    activation_storage: Literal["exact", "bfloat16"] = Field(
        "exact",
        description="how the outputs of convolutions in cells are stored for the backward pass; "
        "`bfloat16` halves their memory with the C++ kernels, and has no effect elsewhere",
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
    clients: int = Field(
        1,
        ge=1,
        le=1000,
        description="clients of a federated search that the training samples are divided among; "
        "they are simulated in one process",
    )
    local_steps: int = Field(
        5, ge=1, description="steps of each client between two rounds of a federated search"
    )
    client_skew: float | None = Field(
        None,
        gt=0,
        description="concentration of the Dirichlet distribution by which clients have different "
        "shares of the classes; the smaller, the more they differ. Equal shares if not given",
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
        if self.start is not None and self.evaluator != "supernet":
            raise ValueError("from has weights of a supernet, for evaluator = supernet")
        if self.clients > 1 and self.evaluator != "supernet":
            raise ValueError("clients train a supernet together, for evaluator = supernet")
        watched = self.max_skips is not None or self.max_growth is not None
        other = self.order == 2 or self.sandwich or self.shrinking or self.cuda_graph or watched
        if self.clients > 1 and other:
            raise ValueError(
                "clients search with order = 1, without sandwich, shrinking, cuda_graph, "
                "max_skips and max_growth"
            )
        if self.clients == 1 and self.client_skew is not None:
            raise ValueError("client_skew needs several clients")
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
