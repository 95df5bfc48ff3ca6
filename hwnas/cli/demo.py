"""The verb `demo`: a run in, a page on which its model classifies images out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hwnas.cli.options import Json, RunArgument, print_result


def demo(
    folder: RunArgument,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Folder to write the page to. Default: DIR/demo."),
    ] = None,
    package: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder of the npm package onnxruntime-web. Default: looked for in node_modules.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a web page on which a run's model classifies images.

    The folder works from any web server that serves files, such as `python -m http.server`. The
    model runs in the browser, by WebAssembly; no image leaves the device.
    """
    from hwnas.reporting.demo import write_demo
    from hwnas.runs.run_folder import RunFolder

    run = RunFolder(folder)
    run.require(run.model)
    target = out or folder / "demo"
    files = write_demo(run.model, target, folder.absolute().name, package)
    text = f"{target}: {len(files)} files; `python -m http.server -d {target}` serves them"
    print_result({"demo": str(target), "files": files}, as_json, text)
