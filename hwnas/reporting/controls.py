"""The chapter of a report on the controls: networks that the search has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hwnas.reporting.formatting import (
    CI,
    CONFIDENCE_INTERVAL,
    DASH,
    count,
    in_words,
    milliseconds,
    number,
    percent,
    sentence_case,
)
from hwnas.reporting.html import (
    Html,
    Section,
    explained,
    figure,
    legend,
    paragraph,
    section,
    table,
    text,
)
from hwnas.reporting.latency_charts import RunPoint, runs_chart
from hwnas.reporting.run_files import (
    Interval,
    Run,
    interval_at,
    number_at,
    text_at,
    value_at,
)
from hwnas.tasks.proportions import wilson_interval

SEARCHED = "searched model"
KINDS = ("searched", "random", "largest within the budget", "hand-made")
"""Kinds of networks in the order of their colours."""
HOW = (
    "A difference is that of the searched model to the control in points, hundredths of the score; "
    "above 0 the searched model is better. All networks keep the same latency budget, were trained "
    "by the same recipe and seed, and were measured in the same rounds. Networks that take turns "
    "displace each other from the processor's caches, so that each is a few percent slower than "
    "alone, where it was measured to keep the budget. The intervals say how far a figure could "
    "differ on other test samples. They do not include the variation between trainings with other "
    "seeds, which is often larger than the differences here: only several runs with other seeds "
    "tell what a search is worth."
)


@dataclass(frozen=True)
class _Network:
    """The run's model or a control, as `controls.json` states it.

    Attributes:
        name: its name.
        kind: index into `KINDS`.
        figures: its entry in the document.
    """

    name: str
    kind: int
    figures: dict[str, Any]

    @property
    def score(self) -> float | None:
        return number_at(self.figures, "score")

    @property
    def latency(self) -> Interval | None:
        return interval_at(self.figures)

    @property
    def twin(self) -> str | None:
        """The name of an earlier network that is the same."""
        return text_at(self.figures, "same_as")


def controls_section(run: Run) -> list[Section]:
    """What the search bought, by score and latency of all controls; nothing without them."""
    networks = _networks(run.controls)
    if not networks:
        return []
    sentences = [comparison_in_words(run.controls), *_time_in_words(run.controls)]
    parts = [paragraph(" ".join(sentences)), *_chart(run, networks), _table(run, networks)]
    return [section("What did the search buy?", *parts, explained(HOW))]


def comparison_in_words(document: dict[str, Any]) -> str:
    """One sentence: the run's model beside the random networks and the best control.

    Args:
        document: the content of `controls.json`.
    """
    controls = [n for n in _networks(document) if n.kind > 0 and n.score is not None]
    if not controls:
        return "No control was trained."
    best = max(controls, key=lambda network: network.score or 0.0)
    verdicts = [_against(best.figures, f"the best control, {best.name}")]
    networks = number_at(document, "random", "networks")
    if networks is not None:
        others = f"the mean of {count(networks)} random networks"
        name = others if networks > 1 else "a random network"
        verdicts.insert(0, _against(value_at(document, "random"), name))
    return f"The {SEARCHED} {' and '.join(verdicts)}."


def _against(figures: Any, name: str) -> str:
    """How the run's model compares with one control: `is 0.5 points better than NAME (...)`."""
    value, low, high = (number_at(figures, "difference", key) for key in ("value", "low", "high"))
    if value is None:
        return f"was not compared with {name}"
    if value == 0:
        return f"is as good as {name}"
    points = f"{_points(abs(value))} points"
    word = "better" if value > 0 else "worse"
    if low is None or high is None:
        return f"is {points} {word} than {name}"
    interval = f"{CONFIDENCE_INTERVAL} {_points(low)} to {_points(high)}"
    if low <= 0 <= high:
        return f"is not told apart from {name} (difference {_points(value)} points, {interval})"
    return f"is {points} {word} than {name} ({interval})"


def _time_in_words(document: dict[str, Any]) -> list[str]:
    """What random networks reach in the time of the search."""
    search_s = number_at(document, "searched", "seconds", "search")
    training_s = number_at(document, "searched", "seconds", "training")
    each_s = number_at(document, "random", "seconds_each")
    if search_s is None or training_s is None or each_s is None:
        return []
    sentences = [
        f"The search took {number(search_s, 3)} s and the training of its model "
        f"{number(training_s, 3)} s; a random network and its training take {number(each_s, 3)} s."
    ]
    best = value_at(document, "random", "equal_time")
    networks, drawn_from = number_at(best, "networks"), number_at(best, "drawn_from")
    if networks is None or drawn_from is None:
        return sentences
    score = percent(number_at(best, "score"))
    if networks == 1:
        return [*sentences, f"In the same time there is one of them; the mean is {score}."]
    fewer = f", of which {count(drawn_from)} were trained" if drawn_from < networks else ""
    return [
        *sentences,
        f"In the same time there are {count(networks)} of them{fewer}; the best is expected to "
        f"reach {score}, if one half of the test samples picks it and the other scores it.",
    ]


def _networks(document: dict[str, Any]) -> list[_Network]:
    """The run's model and all controls."""
    searched, controls = value_at(document, "searched"), value_at(document, "controls")
    if not isinstance(searched, dict) or not isinstance(controls, dict):
        return []
    found = [_Network(SEARCHED, 0, searched)]
    for name, figures in controls.items():
        if isinstance(figures, dict):
            kind = 1 if name.startswith("random-") else 3 if figures.get("width") else 2
            found.append(_Network(name, kind, figures))
    return found


def _chart(run: Run, networks: Sequence[_Network]) -> list[Html]:
    """Score against latency of all networks that were trained; twins are one point."""
    points = [
        RunPoint(str(place), n.latency, n.score, None, n.kind, _score_interval(run, n.score))
        for place, n in enumerate(networks, start=1)
        if n.latency is not None and n.score is not None and n.twin is None
    ]
    if not points:
        return []
    metric = _metric(run)
    title = f"{sentence_case(metric)} against latency"
    caption = (
        f"{sentence_case(metric)} on the test samples in percent against milliseconds per "
        f"inference, with the numbers of the table; bars show the {CONFIDENCE_INTERVAL}s."
    )
    drawing = runs_chart(title, points, [], metric, budgets=False)
    return [figure(title, caption, legend(KINDS), drawing)]


def _table(run: Run, networks: Sequence[_Network]) -> Html:
    """The figures of all networks; of those that do not exist, the reason."""
    header = (
        "no.",
        "network",
        f"{_metric(run)} ({CI})",
        f"difference ({CI})",
        "latency",
        "of the model's",
        "parameters",
        "remarks",
    )
    rows = [
        [
            text(place),
            text(network.name),
            text(_score(run, network)),
            text(_difference(network)),
            text(DASH if network.latency is None else milliseconds(network.latency.value_ms)),
            text(_ratio(network)),
            text(DASH if params is None else count(params)),
            text(_remark(network)),
        ]
        for place, network in enumerate(networks, start=1)
        for params in [number_at(network.figures, "params")]
    ]
    return table("The searched model and its controls", header, rows, "sortable")


def _metric(run: Run) -> str:
    return in_words(text_at(run.controls, "metric") or run.metric)


def _score_interval(run: Run, score: float | None) -> tuple[float, float] | None:
    """The 95 % interval of an accuracy, 0 to 1; None for other metrics."""
    samples = number_at(run.controls, "samples")
    is_share = text_at(run.controls, "metric") == "accuracy"
    if not is_share or samples is None or samples < 1 or score is None or not 0 <= score <= 1:
        return None
    return wilson_interval(score, int(samples))


def _score(run: Run, network: _Network) -> str:
    if network.score is None:
        return DASH
    interval = _score_interval(run, network.score)
    if interval is None:
        return percent(network.score)
    low, high = (number(round(100 * end, 1)) for end in interval)
    return f"{percent(network.score)} ({low} to {high})"


def _difference(network: _Network) -> str:
    """The difference in points, with its interval if it has one."""
    value, low, high = (
        number_at(network.figures, "difference", key) for key in ("value", "low", "high")
    )
    if network.kind == 0 or value is None:
        return DASH
    if low is None or high is None:
        return _points(value)
    return f"{_points(value)} ({_points(low)} to {_points(high)})"


def _ratio(network: _Network) -> str:
    ratio = number_at(network.figures, "ratio", "value")
    return DASH if ratio is None else percent(ratio, 0)


def _remark(network: _Network) -> str:
    if network.twin is not None:
        return f"the same network as {SEARCHED if network.twin == 'searched' else network.twin}"
    width = number_at(network.figures, "width")
    fallback = "" if width is None else f"width {count(width)}"
    return text_at(network.figures, "error") or fallback


def _points(share: float) -> str:
    """A difference of shares in points of a hundred, with two decimals."""
    return f"{100 * share:.2f}"
