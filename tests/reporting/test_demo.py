"""The page of `hwnas demo`, in Chromium: the same classes as the predictor's."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from helpers.exported import model_for
from helpers.web import web_package
from PIL import Image

from hwnas.errors import InputError
from hwnas.inference.predictor import Predictor
from hwnas.latency_tables.remote.browser import DevTools, find_browser
from hwnas.reporting.demo import write_demo

HOSTILE = "</script><script>document.title = 'x'</script>"
CLASSIFY = """
(async () => {{
  const bytes = Uint8Array.from(atob("{image}"), (c) => c.charCodeAt(0));
  const file = new File([bytes], "image.png", {{type: "image/png"}});
  await show(file);
  window.found = JSON.stringify([await classify(await createImageBitmap(file)), document.title,
    document.getElementById("status").textContent,
    [...document.querySelectorAll("#classes li")].map((line) => line.textContent)]);
}})(); 0
"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments) -> None:
        pass


def test_the_page_tells_the_classes_that_the_predictor_tells(tmp_path, rng) -> None:
    package = web_package()
    names = json.dumps(["cat", HOSTILE, "owl"])
    model = model_for("image-classification", tmp_path, **{"classes": names})
    folder = tmp_path / "demo"
    files = write_demo(model, folder, "a <model>", str(package))
    assert {"index.html", "demo.js", "model.onnx", "ort.wasm.min.js"} <= set(files)
    pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    image = io.BytesIO()
    Image.fromarray(pixels).save(image, "PNG")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    browser = DevTools(find_browser("tests"), str(tmp_path / "profile"), lambda text: None)
    try:
        address = f"http://127.0.0.1:{server.server_port}/"
        browser.open(address, ready="typeof classify == 'function' && typeof ort == 'object'")
        text = base64.b64encode(image.getvalue()).decode()
        browser.evaluate(CLASSIFY.format(image=text))
        end = time.monotonic() + 60
        while (found := browser.evaluate("window.found")) is None and time.monotonic() < end:
            time.sleep(0.1)
    finally:
        browser.close()
        server.shutdown()
        server.server_close()
    (told, title, status, lines) = json.loads(found)
    predictor = Predictor(model)
    expected = predictor.predict_proba(pixels.transpose(2, 0, 1)[None])[0]
    probabilities = {entry["name"]: entry["probability"] for entry in told["classes"]}
    assert [probabilities[name] for name in predictor.classes] == pytest.approx(expected, abs=1e-4)
    assert title == "a <model>"
    assert told["ms"] > 0 and status.endswith("ms, one thread")
    best = predictor.classes[int(expected.argmax())]
    assert len(lines) == 3 and lines[0] == f"{best} {100 * expected.max():.1f} %"


def test_a_model_that_classifies_no_images_is_refused(tmp_path) -> None:
    model = model_for("table-classification", tmp_path)
    with pytest.raises(InputError, match="a page is made of models that classify images"):
        write_demo(model, tmp_path / "demo", "model")
    assert not (tmp_path / "demo").exists()
