"""The report of a run: one HTML file that needs neither a network nor a server.

The page is made from the run's files. Its chapters follow a reader's questions after a search: did
it succeed, how is the model used, what does it get right and wrong, how far can it be trusted, did
the exported model pass its check, what did the search buy, which architecture was found and why,
where does its time go, how did the search and the training progress, and how can they be
reproduced. A chapter without content, such as that of a stage that has not run yet, is left out;
the summary names these stages. Values of an unexpected type are shown as not known.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hwnas.architecture import Architecture
from hwnas.reporting.cell_drawings import draw_cell
from hwnas.reporting.cells import Cell, choice_names, read_cells
from hwnas.reporting.checks import check_section
from hwnas.reporting.comparison import score_against_latency
from hwnas.reporting.controls import controls_section
from hwnas.reporting.data import TrainingSamples, data_section
from hwnas.reporting.diagnosis import diagnosis_section
from hwnas.reporting.explanation import explanation_section
from hwnas.reporting.formatting import number
from hwnas.reporting.generated import GeneratedImages
from hwnas.reporting.html import (
    Html,
    Section,
    columns,
    details,
    explained,
    facts,
    figure,
    heading,
    link,
    page,
    paragraph,
    preformatted,
    section,
    table,
    text,
)
from hwnas.reporting.latencies import latency_section
from hwnas.reporting.predictions import Predictions
from hwnas.reporting.run_files import Run, number_at, read_document, text_at
from hwnas.reporting.search import candidates_figures, search_figures
from hwnas.reporting.shrinking import shrinking_section
from hwnas.reporting.summary import summary
from hwnas.reporting.training import results_section, training_section
from hwnas.reporting.trajectories import trajectory_figures
from hwnas.reporting.trust import AttributionMaps, trust_section
from hwnas.reporting.usage import usage_section
from hwnas.reporting.variants import variants_section
from hwnas.runs.run_folder import RunFolder
from hwnas.spaces.base import SearchSpace


def render_report(
    folder: RunFolder,
    space: SearchSpace,
    operator_latencies_ms: Mapping[str, float],
    family: Sequence[RunFolder] = (),
) -> str:
    """Render the report of one run as HTML.

    Args:
        folder: folder of the run; only its configuration file has to exist.
        space: search space of the run, at the sizes of the deployed network.
        operator_latencies_ms: predicted latency of each choice of the found architecture and of the
            `fixed` parts, summed over the network; empty if there is no architecture yet.
        family: folders of the same search's runs for further budgets.

    Raises:
        InputError: when the folder holds no run, a file is damaged or has another schema, or the
            architecture does not belong to the search space.
    """
    run = Run.read(folder)
    predictions = Predictions.read(folder.predictions)
    maps = AttributionMaps.read(folder.attributions, predictions)
    architecture: Architecture | None = None
    cells: list[Cell] = []
    names = choice_names(space.choices)
    if run.architecture:
        architecture = Architecture.from_json(run.architecture, str(folder.architecture))
        space.validate(architecture)
        cells = read_cells(space, architecture, operator_latencies_ms)
    return page(
        f"Report of {run.name}",
        summary(run),
        [
            *_family_section(run, [Run.read(member) for member in family]),
            *usage_section(folder),
            *results_section(run, predictions, GeneratedImages.read(folder.generated_images)),
            *trust_section(run, predictions, maps),
            *check_section(run),
            *controls_section(run),
            *shrinking_section(run, space.choices, architecture),
            *_architecture_section(architecture, cells, names),
            *explanation_section(run, names),
            *latency_section(run, architecture, names, operator_latencies_ms),
            *_search_section(run, space, architecture),
            *data_section(TrainingSamples.read(folder.training_samples)),
            *training_section(run),
            *diagnosis_section(run),
            *variants_section(run),
            _reproduction_section(run, folder),
        ],
    )


def render_variant(folder: RunFolder, check: Path) -> str:
    """Render the page of one exported variant: its own check, in place of the float model's.

    Args:
        folder: folder of the run.
        check: the document of the variant's check.

    Raises:
        InputError: when a file is damaged or has another schema.
    """
    variant = replace(
        Run.read(folder), check=read_document(folder, check), variants={}, controls={}
    )
    name = check.with_suffix("").name.removeprefix("check.")
    title = f"Variant {name} of {variant.name}"
    return page(title, summary(variant), check_section(variant))


def _family_section(run: Run, members: Sequence[Run]) -> list[Section]:
    """Score against latency of all runs of a family; nothing for a single budget."""
    if not members:
        return []
    labelled = [(str(place), one) for place, one in enumerate((run, *members), start=1)]
    sentence = (
        "One search found an architecture for each of several latency budgets. Each of them was "
        "trained, exported and checked."
    )
    more = Html(f"<p>{link('front.html', 'Comparison of all models of the family')}</p>")
    return [
        section(
            "Models for all budgets", paragraph(sentence), score_against_latency(labelled), more
        )
    ]


def _search_section(
    run: Run, space: SearchSpace, architecture: Architecture | None
) -> list[Section]:
    """How the search progressed; nothing before it began."""
    parts = search_figures(run)
    trajectories = trajectory_figures(run, space.choices, architecture)
    if trajectories:
        parts += [heading("Probabilities of the options"), *trajectories]
    parts += candidates_figures(run)
    return [section("Progress of the search", *parts)] if parts else []


def _architecture_section(
    architecture: Architecture | None, cells: Sequence[Cell], names: Mapping[str, str]
) -> list[Section]:
    """Drawings of the cells and the choices as a table; nothing before there is an architecture."""
    title = "Architecture"
    if architecture is None:
        return []
    rows = [[text(names[key]), text(option), text(key)] for key, option in architecture]
    choices = table("Choices", ("choice", "option", "name in files"), rows, "sortable")
    if not cells:
        return [section(title, choices)]
    drawings = [figure(cell.title, cell.summary, draw_cell(cell)) for cell in cells]
    as_table = details("Choices as a table", choices)
    return [section(title, columns(drawings), as_table, explained(_drawing_legend(cells)))]


def _drawing_legend(cells: Sequence[Cell]) -> str:
    """What the boxes and lines of the drawings mean."""
    if cells[0].is_stage:
        sentences = [
            "Layers are drawn from top to bottom. Each box shows an operator and its predicted "
            "latency; a line without a box is a layer that is skipped."
        ]
    else:
        sentences = [
            "Boxes are the nodes of a cell, from top to bottom. Each arrow is a "
            "selected operator, with its predicted latency summed over all cells of the network."
        ]
    if any(cell.inputs == 2 for cell in cells):
        sentences.append("The inputs c_{k-2} and c_{k-1} are the outputs of the two cells before.")
    if any(cell.is_list for cell in cells):
        sentences.append(
            "The sizes are r for the input resolution and d for the number of layers of each "
            "stage, from the first stage to the last."
        )
    output = next((cell.output for cell in cells if cell.joins_nodes), None)
    if output is not None:
        sentences.append(f"Dashed lines: {output}.")
    if any(not edge.runs for cell in cells for edge in cell.edges):
        sentences.append(
            'Operators marked "does not run" do not contribute to the output; the '
            "exported model leaves them out."
        )
    return " ".join(sentences)


def _reproduction_section(run: Run, folder: RunFolder) -> Section:
    """The command that repeats the run, the environment, and the contents of the run's files."""
    config, latency_table = folder.config.name, folder.latency_table.name
    packages = run.environment.get("packages")
    versions = packages if isinstance(packages, dict) else {}
    known = [
        ("Processor", run.device or "not known"),
        ("Platform", text_at(run.environment, "platform") or "not known"),
        ("Python", text_at(run.environment, "python") or "not known"),
        *((str(name), str(version)) for name, version in versions.items()),
        ("Seed", number(number_at(run.settings, "seed"))),
    ]
    how = [
        paragraph(
            "Execute this command in the run's folder; AGAIN is the name of a new folder. On the "
            "same machine the search takes the same steps. Latencies are measured again, however, "
            "so that another candidate may be chosen."
        ),
        preformatted(f"hwnas run {config} --table {latency_table} --out AGAIN"),
    ]
    if text_at(run.settings, "data", "name") == "own":
        how = [
            paragraph(
                "The model and the data of this run were given in Python or by a command. Repeat "
                f"that call with another folder, and with this run's {latency_table} as its table."
            )
        ]
    return section(
        "How to reproduce this run",
        *how,
        facts(known),
        details("Configuration", preformatted(run.config)),
        details("Environment", preformatted(_indented(run.environment))),
        details("Found architecture", preformatted(_indented(run.architecture))),
        details("Results of the check", preformatted(_indented(run.check))),
    )


def _indented(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=1, ensure_ascii=False) if document else "not written yet"
