"""The verbs that list what is available: `hwnas info`, `hwnas spaces` and `hwnas space`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hwnas.cli.options import Json, example, print_result
from hwnas.errors import InputError, printable

OPTIONS_WIDTH, MOST_GROUPS = 160, 4
"""Characters of a line of options on the terminal, and lines of them."""

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
    from hwnas.config import shipped_configs
    from hwnas.runs.run_folder import environment
    from hwnas.spaces import SPACES
    from hwnas.strategies import STRATEGIES

    document = {
        **environment(),
        "runtimes": _runtimes(),
        "spaces": sorted(SPACES),
        "strategies": sorted(STRATEGIES),
        "configs": shipped_configs(),
    }
    lines = [f"{key}: {value}" for key, value in document.items() if not isinstance(value, dict)]
    for key in ("packages", "runtimes"):
        lines += [key, *(f"  {name}: {value}" for name, value in document[key].items())]
    print_result(document, as_json, "\n".join(lines))


def spaces(as_json: Json = False) -> None:
    """List the search spaces.

    For each one the paper, choices, heads, number of architectures, and the range of parameters
    and multiply-accumulates.
    """
    from hwnas.reporting.description import describe_space, listed_spaces

    document: dict[str, dict[str, Any]] = {}
    lines = []
    for name, space in listed_spaces():
        document[name] = describe_space(space)
        lines += _in_words(name, document[name])
    runtimes = _runtimes()
    lines += [
        "runtimes, for every space",
        *(f"  {key}: {state}" for key, state in runtimes.items()),
    ]
    print_result({"spaces": document, "runtimes": runtimes}, as_json, "\n".join(lines))


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
    from hwnas.reporting.description import describe_space, load_space

    space = load_space(path)
    facts = describe_space(space)
    options = {choice.name: choice.options for choice in space.choices}
    lines = _in_words(str(path), facts | {"choice_groups": []})
    lines += [f"  {name}: {', '.join(names)}" for name, names in options.items()]
    print_result({**facts, "choice_options": options}, as_json, "\n".join(lines))


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
    import json

    from hwnas.reporting.description import load_space, sample_architectures

    documents = sample_architectures(load_space(path), count, seed)
    text = "\n".join(json.dumps(document) for document in documents)
    print_result({"architectures": documents}, as_json, text)


def _read(sizes: dict[str, Any]) -> str:
    """What networks of these sizes read, in words."""
    if sizes["vocabulary"] is not None:
        return f"{sizes['width']} tokens of {sizes['vocabulary']:,}"
    return f"{sizes['input_channels']} x {sizes['height']} x {sizes['width']} inputs"


def _describe(path: Path, svg: Path | None, as_json: bool) -> None:
    """Print what is known of an architecture, and write its drawing."""
    import json

    from hwnas.cli.terminal import print_architecture
    from hwnas.reporting.cell_drawings import draw_cells
    from hwnas.reporting.cells import read_cells
    from hwnas.reporting.description import describe_architecture, load_architecture
    from hwnas.runs.checkpoints import write_atomic

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


def _in_words(name: str, facts: dict[str, Any]) -> list[str]:
    """What `describe_space` says of a space."""
    sizes = facts["space_options"]
    return [
        name,
        f"  {facts['paper']}",
        f"  {facts['choices']} choices of {facts['options']} options in all, "
        f"{facts['size']:,} architectures",
        *_options_in_words(facts["choice_groups"]),
        f"  reads images{' or tokens' if facts['reads_tokens'] else ''}, ends with a head: "
        f"{', '.join(facts['heads'])}",
        f"  for {_read(sizes)} and {sizes['classes']} outputs: "
        f"{_millions(facts['params'])} parameters, "
        f"{_millions(facts['macs'])} multiply-accumulates",
    ]


def _options_in_words(groups: list[dict[str, Any]]) -> list[str]:
    """Options and how many choices have them, a line each; the first few, cut to a line."""
    lines = [
        printable(f"{group['choices']} x {', '.join(group['options'])}", OPTIONS_WIDTH)
        for group in groups[:MOST_GROUPS]
    ]
    left = sum(group["choices"] for group in groups[MOST_GROUPS:])
    return [f"    {line}" for line in lines] + ([f"    {left} more"] if left else [])


def _millions(bounds: tuple[int, int]) -> str:
    return " to ".join(f"{bound / 1e6:.4g}" for bound in bounds) + " M"
