"""The chapter of a report on why the search found this network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hwnas.reporting.explanation_charts import Point, differences_chart
from hwnas.reporting.figures import first_rows
from hwnas.reporting.formatting import (
    DASH,
    NO_BREAK,
    count,
    milliseconds,
    number,
    percent,
)
from hwnas.reporting.html import (
    Html,
    Section,
    bar,
    details,
    explained,
    figure,
    heading,
    legend,
    paragraph,
    section,
    table,
    text,
)
from hwnas.reporting.run_files import Run, number_at, objects_at, text_at, value_at

TITLE = "Why this network?"
ALTERNATIVES = (
    "An alternative is the nearest network that takes another option for one choice; where the "
    "space allows the option only together with others, further choices follow. Its latency is the "
    "difference of two predictions of the latency table, with the standard deviation that the "
    "table leaves. Its score is compared on the same validation samples{source}; the standard "
    "error is that of these samples. Both compare networks before their own training, so only "
    "large differences mean anything: shared weights order networks roughly at best."
)
CERTAINTY = (
    "The probability of an option is that of the strategy at the end of its search. A choice is "
    "decided at the share of the search after which the same option stayed the most probable one. "
    "Entropy is 0 for a choice that is decided and 1 for equal probabilities."
)
AGREEMENT = (
    "By chance is the probability that as many random networks of the space agree on the choice at "
    "least as much. A choice is called stable if that is 5 % or less, and a coin flip otherwise. "
    "With two or three runs hardly any choice can be told from chance."
)
IMPORTANCE = (
    "The share of the variance that a choice explains alone over random networks of the space, by "
    "fANOVA (Hutter et al., ICML 2014) with a random forest; the rest belongs to combinations of "
    "choices, and for the score also to noise. A choice without importance can be taken by latency."
)


def explanation_section(run: Run, names: Mapping[str, str]) -> list[Section]:
    """What else there was, what a larger budget would change, how sure the search was.

    Nothing before `hwnas explain`.

    Args:
        run: the run.
        names: readable names of the choices.
    """
    choices = objects_at(run.explanation, "choices")
    if not choices:
        return []
    parts = [
        *_budget(run, names),
        *_alternatives(run, choices, names),
        *_certainty(run, choices, names),
        *_importance(run, names),
        *(paragraph(note) for note in notes_in(run.explanation)),
    ]
    return [section(TITLE, *parts)]


def notes_in(document: Any) -> list[str]:
    """What an `explanation.json` leaves out, a sentence each."""
    found = value_at(document, "notes")
    return [note for note in found if isinstance(note, str)] if isinstance(found, list) else []


def budget_sentences(document: Any, names: Mapping[str, str]) -> list[str]:
    """What a larger budget would change first, and what it is worth.

    Args:
        document: the content of `explanation.json`.
        names: readable names of the choices.
    """
    budget = value_at(document, "budget")
    budget_ms, largest = number_at(budget, "budget_ms"), number_at(budget, "largest_factor")
    if budget_ms is None or largest is None:
        return []
    growth = percent(largest - 1, 1)
    change = value_at(budget, "change")
    factor = number_at(change, "factor")
    if factor is None:
        found = [f"A budget up to {growth} larger would not change the search's best network."]
    else:
        then = ", ".join(_steps(objects_at(change, "choices"), names))
        found = [
            f"If the budget were {growth} larger, this would change first, at a budget "
            f"{percent(factor - 1, 1)} above the present {milliseconds(budget_ms)}: {then}."
        ]
    price = number_at(budget, "price_per_ms")
    if price is not None:
        worth = number(price * budget_ms / 100, 3)
        found.append(
            "In the linear relaxation of decoding, one percent more of the budget raises the best "
            f"sum of scores by {worth} (the dual value of the budget; scores are logarithms of "
            "probabilities)."
        )
    return found


def _steps(changes: Sequence[dict[str, Any]], names: Mapping[str, str]) -> list[str]:
    """Changes of choices in words."""
    return [
        f"{names.get(str(one.get('choice')), one.get('choice'))} takes {one.get('to')} instead of "
        f"{one.get('from')}"
        for one in changes
    ]


def _budget(run: Run, names: Mapping[str, str]) -> list[Html]:
    sentences = budget_sentences(run.explanation, names)
    if not sentences:
        return []
    best = objects_at(run.explanation, "budget", "best")
    rows = [
        [
            text(place),
            text(milliseconds(number_at(one, "latency_ms"))),
            text(count(number_at(one, "params"))),
            text(
                "; ".join(_steps(objects_at(one, "choices"), names)) or "the found network itself"
            ),
        ]
        for place, one in enumerate(best, start=1)
    ]
    header = ("no.", "predicted latency", "parameters", "what differs from the found network")
    title = "The search's best networks within the budget"
    nearly = [details(title, table(title, header, rows, "stacked"))] if rows else []
    return [
        heading("If the budget were larger"),
        paragraph(" ".join(sentences)),
        *nearly,
    ]


def _alternatives(
    run: Run, choices: Sequence[dict[str, Any]], names: Mapping[str, str]
) -> list[Html]:
    """All alternatives as a chart, and the most interesting ones as a table."""
    found = [
        (str(choice.get("choice")), str(choice.get("option")), one)
        for choice in choices
        for one in objects_at(choice, "alternatives")
    ]
    if not found:
        return []
    is_scored = any(number_at(one, "score") is not None for *_, one in found)
    is_trained = any(number_at(one, "trained") is not None for *_, one in found)
    found.sort(key=lambda item: -_promise(item[2]))
    rows = [_row(run, *item, names, is_scored=is_scored, is_trained=is_trained) for item in found]
    scored = ["score"] if is_scored else []
    trained = ["after training"] if is_trained else []
    header = [
        "choice",
        "instead of",
        "option",
        "latency",
        *scored,
        *trained,
        "parameters",
        "with it",
    ]
    title = "Alternatives"
    return [
        heading("If another option had been taken"),
        *_chart(run, found, names),
        first_rows(title, header, rows, "stacked"),
        explained(ALTERNATIVES.format(source=_source(run))),
    ]


def _promise(one: dict[str, Any]) -> float:
    """What alternatives are sorted by: the score in standard errors, or less latency."""
    score, error = number_at(one, "score"), number_at(one, "error")
    if score is None:
        return -1e6 - (number_at(one, "difference_ms") or 0.0)
    return score / error if error else score


def _source(run: Run) -> str:
    if text_at(run.explanation, "evaluator") == "supernet":
        return ", with the weights of the supernet"
    return " or by what the search judged networks with"


def _row(
    run: Run,
    choice: str,
    taken: str,
    one: dict[str, Any],
    names: Mapping[str, str],
    *,
    is_scored: bool,
    is_trained: bool,
) -> list[Html]:
    followers = value_at(one, "followers")
    further = followers if isinstance(followers, list) else []
    row = [
        text(names.get(choice, choice)),
        text(taken),
        text(one.get("option")),
        text(_with_deviation(one)),
    ]
    if is_scored:
        row.append(text(_points(number_at(one, "score"), number_at(one, "error"))))
    if is_trained:
        row.append(text(_points(number_at(one, "trained"), None)))
    params = number_at(one, "params")
    return [
        *row,
        text(DASH if params is None else f"{params:+,.0f}"),
        text(", ".join(names.get(str(name), str(name)) for name in further)),
    ]


def _with_deviation(one: dict[str, Any]) -> str:
    value, deviation = number_at(one, "difference_ms"), number_at(one, "deviation_ms")
    if value is None:
        return DASH
    sign = "+" if value > 0 else ""
    spread = "" if deviation is None else f" \u00b1 {number(deviation, 2)}"
    return f"{sign}{number(value, 3)}{spread}{NO_BREAK}ms"


def _points(value: float | None, error: float | None) -> str:
    """A difference of scores in points of a hundred, with its standard error."""
    if value is None:
        return DASH
    spread = "" if error is None else f" \u00b1 {100 * error:.1f}"
    return f"{100 * value:+.1f}{spread}"


def _chart(
    run: Run, found: Sequence[tuple[str, str, dict[str, Any]]], names: Mapping[str, str]
) -> list[Html]:
    """Score against latency of all alternatives, both as differences; nothing without scores."""
    points = []
    for choice, taken, one in found:
        score, latency_ms = number_at(one, "score"), number_at(one, "difference_ms")
        if score is None or latency_ms is None:
            continue
        error = number_at(one, "error")
        is_clear = error is not None and abs(score) > 2 * error
        words = (
            f"{names.get(choice, choice)}: {one.get('option')} instead of {taken}: "
            f"{_with_deviation(one)}, {_points(score, error)} points"
        )
        points.append(Point(latency_ms, 100 * score, words, int(not is_clear)))
    if not points:
        return []
    title = "Alternatives by latency and score"
    caption = (
        "One point for each alternative; the found network is at the origin. Left of it is faster, "
        "above it scores better."
    )
    key = legend(["difference of more than two standard errors", "not told from no difference"])
    metric = f"{run.metric_in_words} (points)"
    drawing = differences_chart(title, points, "latency (ms)", metric)
    return [figure(title, caption, key, drawing, wide=False)]


def _certainty(run: Run, choices: Sequence[dict[str, Any]], names: Mapping[str, str]) -> list[Html]:
    """The posterior over each choice, and the agreement of several runs."""
    is_known = any(value_at(one, "certainty") for one in choices)
    is_compared = any(value_at(one, "agreement") for one in choices)
    if not is_known and not is_compared:
        return []
    rows = [_certainty_row(one, names, is_known, is_compared) for one in choices]
    header = ["choice", "taken"]
    header += ["probability", "rank", "entropy", "decided at"] if is_known else []
    header += ["runs that agree", "by chance", "so it is"] if is_compared else []
    title = "How sure the search was of each choice"
    notes = [explained(CERTAINTY)] if is_known else []
    notes += [explained(AGREEMENT, "How agreement is judged")] if is_compared else []
    return [
        heading("How sure the search was"),
        *(paragraph(sentence) for sentence in agreement_sentences(run.explanation)),
        first_rows(title, header, rows, "stacked"),
        *notes,
    ]


def agreement_sentences(document: Any) -> list[str]:
    """How far several runs agree, in words; nothing for a single one."""
    runs, shared = (number_at(document, "agreement", key) for key in ("runs", "shared"))
    by_chance = number_at(document, "agreement", "by_chance")
    if runs is None or shared is None or by_chance is None:
        return []
    choices = objects_at(document, "choices")
    stable = sum(value_at(one, "agreement", "stable") is True for one in choices)
    return [
        f"Two of the {count(runs)} runs agree on {percent(shared, 0)} of the choices on average; "
        f"random networks of the space agree on {percent(by_chance, 0)}. {stable} of "
        f"{len(choices)} choices are stable."
    ]


def _certainty_row(
    one: dict[str, Any], names: Mapping[str, str], is_known: bool, is_compared: bool
) -> list[Html]:
    choice = str(one.get("choice"))
    row = [text(names.get(choice, choice)), text(one.get("option"))]
    if is_known:
        certainty = value_at(one, "certainty")
        row += [
            text(percent(number_at(certainty, "probability"), 0)),
            text(count(number_at(certainty, "rank"))),
            text(number(number_at(certainty, "entropy"), 2)),
            text(percent(number_at(certainty, "decided_at"), 0)),
        ]
    if is_compared:
        agreement = value_at(one, "agreement")
        stable = value_at(agreement, "stable") is True
        row += [
            text(f"{count(number_at(agreement, 'count'))}: {text_at(agreement, 'option') or DASH}"),
            text(number(number_at(agreement, "by_chance"), 2)),
            text("stable" if stable else "a coin flip"),
        ]
    return row


def _importance(run: Run, names: Mapping[str, str]) -> list[Html]:
    """The share of the variance of score and latency that each choice explains."""
    importance = value_at(run.explanation, "importance")
    shares = {
        key: {
            choice: share
            for choice in names
            if (share := number_at(importance, key, choice)) is not None and 0 <= share <= 1
        }
        for key in ("score", "latency")
    }
    if not shares["score"] and not shares["latency"]:
        return []
    largest = max([*shares["score"].values(), *shares["latency"].values()]) or 1.0
    rows = []
    for choice in sorted(names, key=lambda name: -shares["score"].get(name, 0.0)):
        score, latency = (shares[key].get(choice) for key in ("score", "latency"))
        bars = Html(bar((score or 0.0) / largest) + bar((latency or 0.0) / largest, "measured"))
        cells = (text(DASH if share is None else percent(share, 1)) for share in (score, latency))
        rows.append([text(names[choice]), bars, *cells])
    title = "Importance of the choices"
    sentence = (
        f"Estimated from {count(number_at(importance, 'samples'))} networks that the search's "
        "evaluation scored."
    )
    header = ("choice", "", "of the score", "of the latency")
    return [
        heading("Which choices matter"),
        paragraph(sentence),
        legend(["share of the score's variance", "share of the latency's variance"]),
        first_rows(title, header, rows, "bars stacked"),
        explained(IMPORTANCE),
    ]
