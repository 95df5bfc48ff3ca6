"""Settings of a search that do not go together; `where` names the configuration in errors."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import ValidationError

from hwnas.checking.references import compared_runtimes
from hwnas.config import Config, SearchConfig, TrainConfig
from hwnas.config.recipe import WHOLE
from hwnas.data import Augmentation, Dataset
from hwnas.errors import InputError, RuntimeMissingError
from hwnas.latency_tables.measuring.energy import energy_counter
from hwnas.latency_tables.runtimes import OnnxModelRuntime, Runtime
from hwnas.runs.ranks import Ranks
from hwnas.spaces.networks import Supernet
from hwnas.spaces.sharing import SharedSupernet
from hwnas.strategies import STRATEGIES, strategy_settings
from hwnas.strategies.gradient import DeterministicStrategy, GradientStrategy
from hwnas.strategies.hyperband import HyperbandSettings, HyperbandStrategy
from hwnas.strategies.sampled import SampledStrategy
from hwnas.strategies.stochastic import DrnasSettings, DrnasStrategy, GdasStrategy
from hwnas.supernet.widening import partial_channels
from hwnas.tasks import Task
from hwnas.training.growing import GROWING_SPACES


def check_strategy(search: SearchConfig, where: str) -> None:
    """InputError for settings, an evaluator or a guard that do not fit the strategy."""
    for name, settings in sorted(search.settings.items()):
        strategy_settings(name, settings, f"{where}.settings.{name}")
    strategy_settings(search.strategy, {}, f"{where}.strategy")
    strategy = STRATEGIES[search.strategy]
    if search.evaluator != "supernet" and strategy.uses_gradient:
        raise InputError(
            f"needs the gradient of a supernet, and evaluator {search.evaluator} has none",
            where=f"{where}.strategy",
            actual=search.strategy,
            mend="choose a strategy that needs evaluations (`hwnas strategies`)",
        )
    if issubclass(strategy, HyperbandStrategy) and search.evaluator == "training":
        own = HyperbandSettings(**search.settings.get(search.strategy, {}))
        if search.evaluation_epochs < own.ratio**own.halvings:
            raise InputError(
                "too few epochs for the lowest rung",
                where=f"{where}.evaluation_epochs",
                expected=f"at least {own.ratio**own.halvings}, ratio ** halvings",
                actual=search.evaluation_epochs,
            )
    if issubclass(strategy, DrnasStrategy):
        widen = DrnasSettings(**search.settings.get(search.strategy, {})).widen
        partial = search.partial_channels or 1
        if partial > 1 and partial % widen:
            raise InputError(
                "the channels cannot be widened so",
                where=f"{where}.settings.{search.strategy}.widen",
                expected=f"a divisor of partial_channels, {partial}",
                actual=widen,
            )
    if search.warm_start and not issubclass(strategy, SampledStrategy):
        raise InputError(
            "only a strategy that proposes single architectures can start from some",
            where=f"{where}.warm_start",
            actual=search.strategy,
        )
    is_penalised = issubclass(strategy, GradientStrategy) and search.order == 1
    if search.penalties and (search.evaluator != "supernet" or not is_penalised):
        raise InputError(
            "penalties are added to the objective of a gradient strategy of first order",
            where=f"{where}.penalties",
            actual=f"{search.strategy} with order {search.order}",
        )
    guards = {"max_skips": GradientStrategy, "max_growth": DeterministicStrategy}
    for key, watched in guards.items():
        if getattr(search, key) is not None and not issubclass(strategy, watched):
            able = [name for name, known in STRATEGIES.items() if issubclass(known, watched)]
            raise InputError(
                "this guard cannot watch the strategy",
                where=f"{where}.{key}",
                expected=f"strategy one of {', '.join(able)}",
                actual=search.strategy,
            )


def check_partial_channels(search: SearchConfig, supernet: Supernet, where: str) -> None:
    """InputError where part of the channels is asked for and the space has no cells to mix it."""
    asked = search.partial_channels
    if asked is not None and asked != partial_channels(supernet):
        raise InputError(
            "the space has no cells, so all channels go through its candidates",
            where=f"{where}.partial_channels",
            expected="1",
            actual=asked,
        )


def graph_needs(config: Config) -> list[tuple[str, bool, bool, str]]:
    """What a recorded step needs: the setting, its value, whether that fits, what would."""
    search = config.search
    strategy = STRATEGIES[search.strategy]
    same = issubclass(strategy, GradientStrategy) and not issubclass(strategy, GdasStrategy)
    needs = (
        (config.device == "cuda", "device = cuda"),
        (search.evaluator == "supernet", "search.evaluator = supernet"),
        (same, "a strategy by gradients that mixes the same options in every step"),
        (search.order == 1, "search.order = 1"),
        (not search.sandwich and not search.shrinking, "no sandwich rule and no shrinking"),
    )
    return [("search.cuda_graph", search.cuda_graph, fits, expected) for fits, expected in needs]


def check_ranks(search: SearchConfig, ranks: Ranks, where: str) -> None:
    """InputError for what several processes cannot search together."""
    for key, fits, expected in (
        ("evaluator", search.evaluator == "supernet", "supernet; others share a storage"),
        ("batch_size", search.batch_size % ranks.size == 0, "a multiple of their number"),
        ("cuda_graph", not search.cuda_graph, "false"),
    ):
        if ranks.size > 1 and not fits:
            raise InputError(
                f"{ranks.size} processes cannot search so",
                where=f"{where}.{key}",
                expected=expected,
                actual=getattr(search, key),
            )


def check_measurements(config: Config, runtime: Runtime, where: str) -> None:
    """Refuse budgets that nothing here measures, and runtimes that outputs cannot be compared on.

    Raises:
        InputError: for memory on a runtime that runs no ONNX files, or a device that is not here.
        RuntimeMissingError: without a counter of energy, or a compared runtime.
    """
    if config.latency.device is not None and config.latency.device_measurements is not None:
        raise InputError(
            "a device is either logged in to, or stands in a file",
            where=f"{where}: latency.device",
            expected="either device or device_measurements",
            actual="both",
        )
    elsewhere = config.latency.device_measurements or config.latency.device
    budget, is_here = config.budget, elsewhere is None
    if budget.memory_mb is not None and not (is_here and isinstance(runtime, OnnxModelRuntime)):
        raise InputError(
            "memory is measured of sessions that run ONNX models here",
            where=f"{where}: budget.memory_mb",
            actual=runtime.name if is_here else elsewhere,
        )
    if budget.energy_mj is not None and not (is_here and energy_counter(runtime)):
        raise RuntimeMissingError(
            "no counter of energy to read", where=f"{where}: budget.energy_mj", actual=runtime.name
        )
    compared_runtimes(config.check.compare, runtime.threads)


def check_formats(config: Config, runtime: Runtime, where: str) -> None:
    """InputError where formats of operators are to be chosen and cannot be measured."""
    if config.shrink is None or config.shrink.variant == "fp32":
        return
    is_here = config.latency.device_measurements is None and config.latency.device is None
    if not (is_here and isinstance(runtime, OnnxModelRuntime)):
        raise InputError(
            "formats of operators are measured of ONNX models here",
            where=f"{where}: shrink.variant",
            expected="fp32, or a runtime of ONNX models on this machine",
            actual=f"{config.shrink.variant} on {runtime.name}, {runtime.place}",
        )


def check_controls(config: Config, where: str) -> None:
    """InputError where controls cannot be measured, or not be compared with the run's model."""
    needs = (
        ("latency.device_measurements", config.latency.device_measurements is None),
        ("train.inherit", not config.train.inherit),
    )
    for key, fits in needs:
        if config.controls and not fits:
            raise InputError(
                "controls are trained from scratch and measured on this machine",
                where=f"{where}: controls",
                expected="0",
                actual=config.controls,
                mend=f"leave out {key} or the controls",
            )


def check_preprocessing(config: Config, where: str) -> None:
    """InputError where the time of preprocessing would have to be known of devices elsewhere."""
    if not config.export.preprocess:
        return
    for key, is_elsewhere in (
        ("latency.device_measurements", config.latency.device_measurements is not None),
        ("devices", bool(config.devices)),
    ):
        if is_elsewhere:
            raise InputError(
                "what normalising adds is measured on this device, and not known of another",
                where=f"{where}: export.preprocess",
                expected=f"false with {key}",
                actual=True,
            )


def check_augmentation(train: TrainConfig, dataset: Dataset, where: str) -> None:
    """InputError for augmentation that does not suit the data."""
    try:
        Augmentation.of(train).require_suits(dataset)
    except InputError as error:
        raise InputError(str(error), where=f"{where}: train") from None


def check_recipe(config: Config, dataset: Dataset, where: str) -> None:
    """InputError for values of a searched recipe with which nothing could be trained."""
    place = f"{where}: search.recipe"
    largest = {
        name: max(one.options) if one.options is not None else float(one.high or 0)
        for name, one in config.search.recipe.items()
    }
    try:
        train = TrainConfig.model_validate(
            config.train.model_dump(by_alias=True) | _whole(largest), strict=False
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(
            first["msg"], where=f"{place}.{first['loc'][0]}", actual=first["input"]
        ) from None
    check_augmentation(train, dataset, place)
    samples = len(dataset.train) // 2
    if "batch_size" in largest and largest["batch_size"] > samples:
        raise InputError(
            "the batch is larger than the half of the samples that a search trains with",
            where=f"{place}.batch_size",
            expected=f"at most {samples}",
            actual=int(largest["batch_size"]),
        )
    if "epochs" in largest and config.minutes is not None:
        raise InputError(
            "a time limit decides the number of epochs",
            where=f"{place}.epochs",
            mend="leave out minutes, or epochs",
        )


def _whole(values: Mapping[str, float]) -> dict[str, float]:
    """The values, whole numbers as such where the setting is one."""
    return {name: int(v) if name in WHOLE and v == int(v) else v for name, v in values.items()}


def check_supernet(config: Config, supernet: Supernet, task: Task, where: str) -> None:
    """InputError for channels, trainings and inheritance that the supernet has not the weights for.

    Args:
        config: of the run.
        supernet: at the proxy's sizes.
        task: what is learned.
        where: names the configuration.
    """
    search, train = config.search, config.train
    check_partial_channels(search, supernet, f"{where}: search")
    shares = isinstance(supernet, SharedSupernet)
    has_phases = isinstance(supernet, SharedSupernet) and supernet.phases > 0
    samples = issubclass(STRATEGIES[search.strategy], SampledStrategy)
    of_supernet = search.evaluator == "supernet"
    # In training, a generator's outputs are those of its encoder too.
    is_plain = task.head != "image"
    needs = (
        ("search.penalties", search.penalties, is_plain, "another task than image generation"),
        ("train.teacher", train.teacher, is_plain, "another task than image generation"),
        ("train.adversarial_weight", train.adversarial_weight, not is_plain, "0, without latents"),
        ("search.sandwich", search.sandwich, of_supernet, "search.evaluator = supernet"),
        ("search.distillation", search.distillation, task.tells_classes, "a task of classes"),
        *graph_needs(config),
        ("search.shrinking", search.shrinking, of_supernet, "search.evaluator = supernet"),
        ("search.shrinking", search.shrinking, has_phases, "space.name = elastic, with choices"),
        ("search.shrinking", search.shrinking, samples, "a strategy of single architectures"),
        ("search.finalists", search.finalists, train.epochs > 0, "train.epochs above 0"),
        (
            "train.grow",
            train.grow,
            config.space.name in GROWING_SPACES,
            f"space.name one of {', '.join(GROWING_SPACES)}",
        ),
        ("train.grow", train.grow, config.minutes is None, "no minutes"),
        ("train.grow", train.grow, train.teacher is None, "no train.teacher"),
        ("train.inherit", train.inherit, of_supernet, "search.evaluator = supernet"),
        ("train.inherit", train.inherit, shares, "space.name = elastic, vit or nasbench101"),
        ("train.inherit", train.inherit, not search.proxy, "no search.proxy"),
    )
    for key, value, fits, expected in needs:
        if value and not fits:
            raise InputError(
                "this setting does not fit the others",
                where=f"{where}: {key}",
                expected=expected,
                actual=value,
            )
