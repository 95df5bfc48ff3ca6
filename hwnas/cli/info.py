"""The verbs that list what is available: `hwnas info`, `hwnas spaces` and `hwnas space`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from hwnas.cli.options import Json, example, print_result
from hwnas.errors import InputError

space_app = typer.Typer(
    rich_markup_mode=None, help="Validate and inspect a search space that a TOML file describes."
)
SpaceFile = Annotated[
    Path,
    typer.Argument(metavar="SPACE.toml", help="A file with the [space] table of a configuration."),
]


def info(
    architecture: Annotated[
        Path | None,
        typer.Argument(
            metavar="[ARCHITECTURE.json]",
            help="An architecture to describe. Default: list versions and choices.",
        ),
    ] = None,
    svg: Annotated[
        Path | None,
        typer.Option(metavar="FILE.svg", help="Also write a drawing of the architecture."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what is installed, or one architecture.

    Without an argument: versions, runtimes and why one is missing, search spaces, strategies,
    shipped configurations. With an architecture: its drawing, depth, parameters and
    multiply-accumulates.
    """
    if architecture is not None:
        _describe(architecture, svg, as_json)
        return
    if svg is not None:
        raise InputError(
            "there is nothing to draw", where="--svg", mend="name an architecture.json"
        )
    from hwnas.cli.terminal import print_environment
    from hwnas.config import shipped_configs
    from hwnas.reporting.catalogue import read_catalogue
    from hwnas.runs.run_folder import environment

    catalogue = read_catalogue()
    document = {
        **environment(),
        "runtimes": _runtimes(),
        "spaces": sorted({facts["space"] for facts in catalogue["spaces"].values()}),
        "strategies": sorted(catalogue["strategies"]),
        "configs": shipped_configs(),
    }
    if as_json:
        print(json.dumps(document))
    else:
        print_environment(document)


def spaces(as_json: Json = False) -> None:
    """List the search spaces.

    For each one the paper, choices, heads, number of architectures, and the range of parameters
    and multiply-accumulates.
    """
    from hwnas.cli.terminal import print_spaces
    from hwnas.reporting.catalogue import read_catalogue

    document = {"spaces": read_catalogue()["spaces"], "runtimes": _runtimes()}
    if as_json:
        print(json.dumps(document))
    else:
        print_spaces(document["spaces"])


@space_app.command(epilog=example("hwnas space validate SPACE.toml"))
def validate(path: SpaceFile, as_json: Json = False) -> None:
    """Check that a file describes a search space."""
    from hwnas.reporting.description import load_space

    space = load_space(path)
    document = {"valid": str(path), "choices": len(space.choices), "size": space.size()}
    text = f"{path}: valid, {len(space.choices)} choices, {space.size():,} architectures"
    print_result(document, as_json, text)


@space_app.command("info", epilog=example("hwnas space info SPACE.toml"))
def space_info(path: SpaceFile, as_json: Json = False) -> None:
    """Show a file's choices and sizes.

    Also the number of architectures, and the range of parameters and multiply-accumulates.
    """
    from hwnas.cli.terminal import print_spaces
    from hwnas.reporting.description import describe_space, load_space

    space = load_space(path)
    facts = describe_space(space)
    options = {choice.name: choice.options for choice in space.choices}
    if as_json:
        print(json.dumps({**facts, "choice_options": options}))
    else:
        print_spaces({str(path): facts | {"choice_options": options}})


@space_app.command(epilog=example("hwnas space sample SPACE.toml -n 3 --seed 1"))
def sample(
    path: SpaceFile,
    count: Annotated[
        int, typer.Option("-n", min=1, max=100_000, help="Number of architectures.")
    ] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random draws.")] = 0,
    as_json: Json = False,
) -> None:
    """Draw random architectures, one JSON object in each line."""
    from hwnas.reporting.description import load_space, sample_architectures

    documents = sample_architectures(load_space(path), count, seed)
    text = "\n".join(json.dumps(document) for document in documents)
    print_result({"architectures": documents}, as_json, text)


def _describe(path: Path, svg: Path | None, as_json: bool) -> None:
    """Print what is known of an architecture, and write its drawing."""
    from hwnas.cli.drawing import print_architecture
    from hwnas.durable import write_atomic
    from hwnas.reporting.cell_drawings import draw_cells
    from hwnas.reporting.cells import read_cells
    from hwnas.reporting.description import describe_architecture, load_architecture

    space, architecture = load_architecture(path)
    cells = read_cells(space, architecture, {})
    document = describe_architecture(space, architecture)
    if svg is not None:
        write_atomic(svg, draw_cells(cells))
    if as_json:
        print(json.dumps(document, allow_nan=False))
    else:
        print_architecture(document, cells)


def _runtimes() -> dict[str, str]:
    """Every runtime: `available`, or why it is not."""
    from hwnas.errors import RuntimeMissingError
    from hwnas.latency_tables.runtimes import RUNTIMES

    states = {}
    for name, runtime in RUNTIMES.items():
        try:
            runtime(1).require()
            states[name] = "available"
        except RuntimeMissingError as error:
            states[name] = str(error)
    return states
