"""An architecture as text: its choices in a table, its cells as trees."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from hwnas.reporting.cells import SKIP, Cell


def print_architecture(document: dict[str, Any], cells: Sequence[Cell]) -> None:
    """Print what `describe_architecture` says, with a drawing of the cells, on stdout."""
    console = Console(highlight=False, markup=False)
    # What lists of tables led to is told by the choices below.
    stated = ", ".join(
        f"{key} {value}"
        for key, value in document["space_options"].items()
        if value is not None and not (isinstance(value, list) and dict in map(type, value))
    )
    console.print(f"{document['space']}: {stated}")
    console.print(
        f"{document['params']:,} parameters, {document['macs']:,} multiply-accumulates, "
        f"{document['depth']} layers deep"
    )
    for cell in cells:
        console.print(_layers(cell) if cell.is_stage else _tree(cell))
    table = Table("choice", "option")
    for header in ("parameters", "multiply-accumulates"):
        table.add_column(header, justify="right")
    for row in document["choices"]:
        if row["option"] != "none":
            option = Text(row["option"], "" if row["runs"] else "dim")
            table.add_row(row["choice"], option, f"{row['params']:,}", f"{row['macs']:,}")
    fixed = document["fixed"]
    table.add_row("what is fixed", "", f"{fixed['params']:,}", f"{fixed['macs']:,}")
    console.print(table)
    console.print(f"genotype: {json.dumps(document['genotype'])}", soft_wrap=True)


def _layers(cell: Cell) -> Text:
    """A stage as a row of its layers, dim where they do not run; dashes stand for those skipped.

    Sizes are listed.
    """
    names = [
        Text("-" if edge.operator == SKIP else edge.operator, "" if edge.runs else "dim")
        for edge in cell.edges
    ]
    return Text(f"{cell.title}: ") + Text(", " if cell.is_list else " > ").join(names)


def _tree(cell: Cell) -> Tree:
    """A cell as its nodes, each with the edges that enter it."""
    tree = Tree(Text(cell.title))
    for number in range(cell.inputs, cell.nodes):
        node = tree.add(Text(cell.node_name(number)))
        for edge in cell.edges:
            if edge.target == number:
                words = f"{edge.operator} of {cell.node_name(edge.source)} {edge.cost}".rstrip()
                node.add(Text(words, "" if edge.runs else "dim"))
    if cell.joins_nodes:
        tree.add(Text(cell.output))
    return tree
