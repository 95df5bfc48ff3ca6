"""The verb `infer`: files in, a model's answers out."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from hwnas.cli.options import Json
from hwnas.errors import InputError


def infer(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL.onnx", help="A model that hwnas exported.")
    ],
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILES...",
            help="Images, sounds, texts (every line is a sample), CSV files with the table's "
            "columns, or arrays in .npy files; of several inputs .npz files.",
        ),
    ],
    top: Annotated[
        int, typer.Option(min=1, metavar="K", help="Tell the K most probable classes.")
    ] = 1,
    threshold: Annotated[
        float, typer.Option(min=0, max=1, help="Least probability of a box.")
    ] = 0.3,
    masks: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Also write the class of each pixel to this folder, as PNG files of the model's "
            "size.",
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Also write generated images to this folder, as PNG files."
        ),
    ] = None,
    threads: Annotated[
        int, typer.Option(min=0, max=1024, help="Threads; 0 leaves it to ONNX Runtime.")
    ] = 1,
    as_json: Json = False,
) -> None:
    """Ask an exported model about files.

    Prints classes, boxes, shares of pixels, values, or sizes of generated images. Needs ONNX
    Runtime alone. A file that cannot be read costs one line on stderr, and the exit code is 2 when
    all others are answered.
    """
    from hwnas.inspection.process import inspect_model

    inspected = inspect_model(model)
    from hwnas.inference.answers import answers_to, in_words
    from hwnas.inference.predictor import Predictor

    predictor = Predictor(inspected.path, threads)
    task = predictor.description.task
    for option, given, suits in (
        ("masks", masks, "segmentation"),
        ("images", images, "image-generation"),
    ):
        if given is not None and task != suits:
            raise InputError(
                f"the model does not predict {option}",
                where=f"--{option}",
                expected=f"a model of {suits.replace('-', ' ')}",
                actual=task,
            )
    answers, errors, folder = [], [], masks or images
    for file in files:
        try:
            found = answers_to(file, predictor, top=top, threshold=threshold, folder=folder)
        except InputError as error:
            errors.append({"file": str(file), "error": str(error)})
            print(f"hwnas: {error}", file=sys.stderr)
            continue
        answers += found
        if not as_json:
            for answer in found:
                print(in_words(answer))
    if as_json:
        print(json.dumps({"model": str(model), "task": task, "answers": answers, "errors": errors}))
    if errors:
        raise typer.Exit(2)
