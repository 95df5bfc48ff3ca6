"""The verbs that look into a run: `explain` and `diagnose`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from hwnas.cli.options import Json, RunArgument, opened


def explain(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="DIR...",
            help="The folder of a run, and of further runs with other seeds to compare it with.",
        ),
    ],
    train: Annotated[
        int,
        typer.Option(
            "--train",
            metavar="N",
            min=0,
            help="Also train the N most promising alternatives shortly (search.evaluation_epochs).",
        ),
    ] = 0,
    as_json: Json = False,
) -> None:
    """Explain why a run found its network.

    For each choice: what the other options would have cost and gained, how sure the search was, and
    how much the choice matters; what a larger budget would change; whether the probabilities of the
    trained network are right, what it looks at, and what it bears. Writes DIR/explanation.json and
    two chapters of DIR/report.html. With further runs: which choices are stable over seeds.
    """
    from hwnas.cli.insight import print_explanation
    from hwnas.pipeline.explain import explain as explain_run
    from hwnas.pipeline.report import report
    from hwnas.pipeline.run import Run

    first, *others = folders
    with opened(first) as current:
        document = explain_run(current, [Run.open(other) for other in others], train=train)
        page = report(first)
    if as_json:
        print(json.dumps(document, allow_nan=False))
    else:
        print_explanation(document, page)


def diagnose(folder: RunArgument, as_json: Json = False) -> None:
    """Measure what theory says of a trained network.

    Lipschitz bounds, curvature of the loss, whether training and search had converged, and measures
    of generalisation. Writes DIR/diagnosis.json and a chapter of DIR/report.html.
    """
    from hwnas.cli.insight import print_diagnosis
    from hwnas.pipeline.diagnose import diagnose as diagnose_run
    from hwnas.pipeline.report import report

    with opened(folder) as current:
        document = diagnose_run(current)
        page = report(folder)
    if as_json:
        print(json.dumps(document, allow_nan=False))
    else:
        print_diagnosis(document, page)
