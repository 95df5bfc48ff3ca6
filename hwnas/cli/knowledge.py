"""The verbs of the knowledge base: `remember`, and `knowledge list|export|import`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from hwnas.cli.options import Json, example, opened, print_result

knowledge_app = typer.Typer(
    rich_markup_mode=None, help="Look into a knowledge base, export and import it."
)
Base = Annotated[
    str,
    typer.Option(
        "--knowledge",
        metavar="BASE",
        help="The knowledge base: an SQLite file, or the URL of a database.",
    ),
]
BaseArgument = Annotated[
    str, typer.Argument(metavar="BASE", help="An SQLite file, or the URL of a database.")
]


def remember(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Folders of runs.")],
    knowledge: Base,
    as_json: Json = False,
) -> None:
    """Add what runs found to a knowledge base, from which later searches can begin.

    Kept are the architectures that were scored, the device's costs and statistics of the data, but
    no samples, class names or paths. A run that is there already is not added again.
    """
    from hwnas.pipeline.knowledge import remember as remember_run
    from hwnas.pipeline.knowledge import summary

    documents = []
    for folder in folders:
        with opened(folder) as current:
            search, is_new = remember_run(current, knowledge)
        documents.append({"run": str(folder), **summary(search), "new": is_new})
    if as_json:
        print(json.dumps({"knowledge": knowledge, "runs": documents}))
        return
    for one in documents:
        text = "added" if one["new"] else "known already"
        print(f"{one['run']}: {one['evaluations']} scored architectures of {one['space']}, {text}")


@knowledge_app.command("list", epilog=example("hwnas knowledge list searches.db"))
def list_searches(base: BaseArgument, as_json: Json = False) -> None:
    """List the searches in a knowledge base."""
    from hwnas.knowledge.base import KnowledgeBase
    from hwnas.pipeline.knowledge import summary

    searches = KnowledgeBase.existing(base).searches()
    rows = [
        {"created": one.created, "device": one.device, "runtime": one.runtime, **summary(one)}
        for one in searches
    ]
    if as_json:
        print(json.dumps({"searches": rows}))
        return
    for row in rows:
        print(
            f"{row['created']}  {row['space']}  {row['task']}  {row['evaluator']}  "
            f"{row['evaluations']} scores  {row['device']}"
        )


@knowledge_app.command("export", epilog=example("hwnas knowledge export searches.db all.jsonl"))
def export_searches(
    base: BaseArgument,
    out: Annotated[Path, typer.Argument(metavar="FILE.jsonl", help="File of the lines of JSON.")],
    as_json: Json = False,
) -> None:
    """Write all searches of a knowledge base to a file, a line of JSON for each."""
    from hwnas.knowledge.base import KnowledgeBase

    count = KnowledgeBase.existing(base).write_lines(out)
    print_result({"searches": count, "file": str(out)}, as_json, f"{out}: {count} searches")


@knowledge_app.command("import", epilog=example("hwnas knowledge import searches.db all.jsonl"))
def import_searches(
    base: BaseArgument,
    file: Annotated[Path, typer.Argument(metavar="FILE.jsonl", help="What `export` wrote.")],
    as_json: Json = False,
) -> None:
    """Add the searches of a file to a knowledge base, which is made if there is none."""
    from hwnas.knowledge.base import KnowledgeBase

    count = KnowledgeBase(base).read_lines(file)
    print_result({"searches": count, "file": str(file)}, as_json, f"{base}: {count} new searches")
