"""A page on which an exported model classifies images, for any web server that serves files."""

from __future__ import annotations

import html
import json
import shutil
from importlib import resources
from pathlib import Path

from hwnas.errors import InputError
from hwnas.inference.predictor import Predictor
from hwnas.latency_tables.remote.browser import LIBRARY, find_package

POLICY = (
    "default-src 'self'; script-src 'self' 'wasm-unsafe-eval' blob:; worker-src 'self' blob:; "
    "connect-src 'self' blob: data:; img-src 'self' blob: data:; style-src 'unsafe-inline'"
)
PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }}
body {{ max-width: 40rem; margin: 2rem auto; padding: 0 1rem; }}
canvas {{ max-width: 100%; max-height: 20rem; }}
</style>
<h1>{title}</h1>
<p>Choose an image, or drop one on this page. It stays on this device.</p>
<p><input type="file" id="file" accept="image/*" aria-label="An image"></p>
<canvas id="picture" width="1" height="1" aria-label="The image"></canvas>
<p id="status" role="status"></p>
<ol id="classes"></ol>
<script type="application/json" id="model">{model}</script>
<script src="ort.wasm.min.js"></script>
<script src="demo.js"></script>
</html>
"""


def write_demo(model: Path, folder: Path, title: str, package: str | None = None) -> list[str]:
    """Write the page, its script, the model and onnxruntime-web to a new folder.

    Args:
        model: an exported model that classifies images of one or three channels in 8 bits.
        folder: a new or empty folder.
        title: of the page.
        package: folder of the npm package onnxruntime-web; looked for in `node_modules` if None.

    Returns:
        The names of the files.

    Raises:
        InputError: the model does something else, or the folder holds something.
        RuntimeMissingError: the package is not installed.
    """
    description = Predictor(model).description
    fits = description.task == "image-classification" and description.raw_dtype == "uint8"
    if not fits or description.kind != "image" or description.shape[0] not in (1, 3):
        raise InputError(
            "a page is made of models that classify images",
            where=str(model),
            expected="images of one or three channels in 8 bits",
            actual=f"{description.task} of {description.shape} {description.raw_dtype}",
        )
    if folder.exists() and any(folder.iterdir()):
        raise InputError("the folder is not empty", where=str(folder), mend="choose another")
    library = find_package("hwnas demo", package) / "dist"
    folder.mkdir(parents=True, exist_ok=True)
    stated = {
        "input": description.input_name,
        "shape": list(description.shape),
        "classes": list(description.classes),
        "normalises": description.normalises,
        "mean": None if description.mean is None else description.mean.tolist(),
        "std": None if description.std is None else description.std.tolist(),
    }
    # Names of classes are a user's: they must not end the script that holds them.
    safe = json.dumps(stated).replace("<", "\\u003c")
    page = PAGE.format(policy=POLICY, title=html.escape(title), model=safe)
    (folder / "index.html").write_text(page, "utf-8")
    script = resources.files("hwnas.reporting") / "demo.js"
    (folder / "demo.js").write_text(script.read_text("utf-8"), "utf-8")
    shutil.copyfile(model, folder / "model.onnx")
    for name in LIBRARY:
        shutil.copyfile(library / name, folder / name)
    return sorted(path.name for path in folder.iterdir())
