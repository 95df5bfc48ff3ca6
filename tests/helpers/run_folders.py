"""Run folders as the stages write them, their reports, and a strict parser for the pages."""

from __future__ import annotations

import html
import itertools
import json
import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from helpers.tiny import tiny_space

from hwnas.architecture import Architecture
from hwnas.deploy.export import set_metadata
from hwnas.reporting.report import render_report
from hwnas.runs.run_folder import RunFolder
from hwnas.spaces.base import SearchSpace

PREDICTED_MS = 0.4377
HOSTILE = "<script>alert('x')</script>\"><img src=//evil.example/a>&amp;"
VOID = {"meta", "br", "img", "link", "hr", "input"}
STAGES = (
    "environment", "history", "architecture", "metrics", "predictions", "model", "check",
    "operator_shares",
)  # fmt: skip
CLASSES = ("trouser", "ankle boot", "sandal")


def measured(value_ms: float) -> dict[str, Any]:
    return {
        "median_ms": 1.1 * value_ms,
        "p10_ms": value_ms,
        "p90_ms": 1.3 * value_ms,
        "statistic": "p10",
        "value_ms": value_ms,
        "ci_low_ms": 0.98 * value_ms,
        "ci_high_ms": 1.02 * value_ms,
        "rounds": 240,
        "status": "ok",
        "runtime": "onnxruntime-cpu",
    }


def latencies_of(architecture: Architecture, rng: np.random.Generator) -> dict[str, float]:
    costs = {"none": 0.0, "skip_connect": 0.0}
    latencies = {
        choice: costs.get(option, float(rng.uniform(0.002, 0.02)))
        for choice, option in architecture
    }
    return {"fixed": PREDICTED_MS - sum(latencies.values()), **latencies}


def history_of(
    space: SearchSpace, architecture: Architecture, rng: np.random.Generator
) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = [
        {"event": "budget", "budget_ms": 0.5, "fastest_ms": 0.2137, "slowest_ms": 1.374}
    ]
    for step in range(10, 601, 10):
        warm = step > 180
        records.append(
            {
                "event": "search",
                "step": step,
                "loss": 2.3 * math.exp(-step / 300) + rng.uniform(0, 0.2),
                "validation_loss": 2.4 * math.exp(-step / 320) + 0.1 if warm else None,
                "latency_ms": 0.5 + 0.4 * math.exp(-step / 150),
                "multiplier": 0.01 * step,
                "entropy": 1.0 if not warm else math.exp(-(step - 180) / 300),
                "skips": 2 + 3 * step / 600,
                "probabilities": [
                    rng.dirichlet(np.ones(len(choice.options))).tolist() for choice in space.choices
                ],
            }
        )
    for value_ms, accuracy in ((0.53, 0.71), (0.4213, 0.69)):
        choices = dict(architecture.options)
        if value_ms > 0.5:
            choices = dict.fromkeys(choices, "none")
        records.append(
            {
                "event": "measurement",
                "choices": choices,
                "predicted_ms": 0.44,
                "supernet_accuracy": accuracy,
                "measured": measured(value_ms),
            }
        )
    records += [
        {"event": "train", "step": step, "loss": 2.2 * math.exp(-step / 200) + 0.4}
        for step in range(25, 501, 25)
    ]
    for record in records[-1:-20:-4]:
        share = record["step"] / 600
        scores = {"train_score": 0.1 + share, "test_score": 0.08 + 0.9 * share}
        record |= {"epoch": record["step"] // 50, **scores}
        record |= {"train_samples": 1000, "test_samples": 250}
    return records


def check_of(architecture: Architecture) -> dict[str, Any]:
    return {
        "schema": 1,
        "verdict": "pass",
        "budget_ms": 0.5,
        "predicted_ms": PREDICTED_MS,
        "measured": measured(0.4213),
        "parity": {
            "max_abs_error": 3.1e-6,
            "sqnr_db": 121.4,
            "top1_agreement": 1.0,
            "batches": [1, 7],
        },
        "accuracy": {"torch": 0.874, "onnx": 0.873, "n": 1000},
        "model": {
            "sha256": "ab" * 32,
            "size_bytes": 123_456,
            "opset": 18,
            "ir_version": 8,
            "params": 30_842,
            "macs": 4_812_345,
        },
        "gates": [
            {"name": "budget", "status": "pass", "value": 0.4213, "limit": 0.5},
            {"name": "parity", "status": "pass", "value": 3.1e-6, "limit": None},
            {"name": "sqnr", "status": "pass", "value": 121.4, "limit": 80.0},
            {"name": "agreement", "status": "pass", "value": 1.0, "limit": 1.0},
            {"name": "accuracy_drop", "status": "skipped", "value": None, "limit": 0.0125},
        ],
        "environment": {"python": "3.11.4", "packages": {"onnxruntime": "1.27.0"}},
    }


def variants() -> dict[str, Any]:
    """A `variants.json`: one variant that passes, one that fails, one that was refused."""
    made = {
        "verdict": "pass",
        "size_bytes": 51_234,
        "parity": {"sqnr_db": 27.3},
        "accuracy": {"onnx": 0.868, "drop": 0.004},
        "measured": measured(0.18),
        "ratio": {"value": 0.412, "ci_low": 0.4, "ci_high": 0.424},
        "gates": [{"name": "sqnr", "status": "pass"}],
        "error": None,
    }
    failed = made | {"verdict": "fail", "gates": [{"name": "sqnr", "status": "fail"}]}
    refused = {"verdict": None, "error": f"refused {HOSTILE}"}
    entries = {"int8": made, "fp16": failed, "int8-dynamic": refused}
    return {"schema": 1, "fastest": "int8", "variants": entries}


def write_run(
    folder: RunFolder, space: SearchSpace, seed: int = 0, stages: tuple[str, ...] = STAGES
) -> tuple[Architecture, dict[str, float]]:
    """Write the files of all stages of a run, or of some; the architecture and its latencies."""
    rng = np.random.default_rng(seed)
    architecture = space.sample(rng)
    latencies = latencies_of(architecture, rng)
    folder.create()
    folder.config.write_text(f'seed = {seed}\n[space]\nname = "{space.name}"\n')
    documents = {
        "environment": {"platform": "Linux", "cores": 2, "packages": {"torch": "2.13.0"}},
        "architecture": {
            **architecture.to_json(),
            "space_options": {},
            "genotype": space.to_genotype(architecture),
            "params": 30_842,
            "macs": 4_812_345,
            "predicted_ms": PREDICTED_MS,
        },
        "metrics": {
            "schema": 1,
            "accuracy": 0.872,
            "precision": 0.871,
            "recall": 0.872,
            "f1": 0.8715,
            "per_class": [
                {"class": name, "precision": 0.9, "recall": 0.8, "f1": 0.847, "n": 100}
                for name in CLASSES
            ],
            "epochs": 10,
            "seconds": 123.4,
        },
        "check": check_of(architecture),
        "operator_shares": {
            "schema": 1,
            "runtime": "onnxruntime-cpu",
            "by": "choice",
            "shares": {"fixed": 0.4, "layout": 0.1, architecture.options[0][0]: 0.5},
        },
    }
    for stage in stages:
        if stage == "history":
            lines = [json.dumps(record) for record in history_of(space, architecture, rng)]
            folder.history.write_text("\n".join(lines) + "\n")
        elif stage == "predictions":
            write_predictions(folder, rng)
        elif stage == "model":
            write_model(folder.model)
        else:
            folder.write_json(getattr(folder, stage), documents[stage])
    return architecture, latencies


def write_predictions(
    folder: RunFolder, rng: np.random.Generator, classes: Sequence[str] = CLASSES, **arrays: Any
) -> None:
    """Write a `predictions.npz` of 300 images, 8 x 6 pixels; arrays replace those of a name."""
    targets = np.arange(300) % len(classes)
    wrong = np.arange(300) % 7 == 0
    predicted = (targets + wrong) % len(classes)
    samples = np.concatenate([np.flatnonzero(~wrong)[:12], np.flatnonzero(wrong)[:12]])
    found = {
        "classes": np.array(classes, dtype=np.str_),
        "targets": targets,
        "predicted": predicted,
        "confidence": rng.uniform(0.4, 1, 300).astype(np.float32),
        "samples": samples,
        "sample_images": rng.integers(0, 256, (24, 3, 8, 6), dtype=np.uint8),
    }
    kept = {name: value for name, value in (found | arrays).items() if value is not None}
    np.savez_compressed(folder.predictions, allow_pickle=False, **kept)


def write_model(path: Path, classes: Sequence[str] = CLASSES, input_name: str = "images") -> None:
    """Write a model of images (3, 8, 6) whose logits are the means of the channels."""
    value, node = onnx.helper.make_tensor_value_info, onnx.helper.make_node
    graph = onnx.helper.make_graph(
        [node("ReduceMean", [input_name, "axes"], ["logits"], keepdims=0)],
        "means",
        [value(input_name, onnx.TensorProto.FLOAT, ["batch", 3, 8, 6])],
        [value("logits", onnx.TensorProto.FLOAT, ["batch", 3])],
        [onnx.numpy_helper.from_array(np.array([2, 3]), "axes")],
    )
    opset = [onnx.helper.make_opsetid("", 18)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=8)
    properties = {
        "task": "image-classification",
        "input_mean": json.dumps([0.5, 0.4, 0.3]),
        "input_std": json.dumps([0.2, 0.2, 0.2]),
        "classes": json.dumps(list(classes)),
    }
    set_metadata(model, properties)
    path.write_bytes(model.SerializeToString())


def change(path: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))


class Page(HTMLParser):
    """The elements of a page, whose nesting is checked, and its text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.titles: list[str] = []
        self.feed(source)
        self.close()
        assert not self.open
        self.text = " ".join(" ".join(self.texts).split())

    def drawings(self) -> set[str]:
        """Labels of the drawings."""
        return {str(a["aria-label"]) for tag, a in self.elements if tag == "svg"}

    def chapters(self) -> list[str]:
        """Titles of the chapters, in order."""
        return self.titles[1:]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.texts.append(data)
        if self.open and self.open[-1] == "h2":
            self.titles.append(data)


IMAGE = re.compile(r'src="data:image/png;base64,[A-Za-z0-9+/]+=*"')
KNOWN = {
    "alt", "aria-label", "aria-labelledby", "charset", "class", "content", "cx", "cy", "d",
    "data-label", "data-series", "fill-opacity", "font-size", "height", "hidden", "href",
    "http-equiv", "id", "lang", "name", "points", "r", "role", "rx", "scope", "src", "style",
    "tabindex", "text-anchor", "transform", "type", "viewbox", "width", "x", "xmlns", "y",
}  # fmt: skip


def assert_sound(source: str) -> Page:
    """Parse a page and check that it is well-formed, self-contained, accessible and small."""
    page = Page(source)
    for drawing in re.findall(r"<svg.*?</svg>", source, flags=re.DOTALL):
        root = ElementTree.fromstring(drawing)
        assert root.get("viewBox", "").startswith(("0 0 360 ", "0 0 160 "))
        assert root.get("aria-label")
        assert root.get("role") == "img"
        assert root.get("width") is None
        for element in root.iter():
            if element.get("class", "").split()[:1] == ["mark"]:
                assert element[0].tag.endswith("title")
                assert element[0].text
            assert not any("nan" in v or "inf" in v for k, v in element.items() if len(k) < 7)
    for tag, attributes in page.elements:
        if tag == "img":
            assert IMAGE.fullmatch(f'src="{attributes["src"]}"')
            assert attributes["alt"]
        assert tag not in {"link", "iframe", "object", "image", "foreignobject"}
        assert set(attributes) <= KNOWN, (tag, attributes)
        href = attributes.get("href") or "#"
        assert href.startswith(("./", "#") if tag == "a" else "#"), href
    tags = [tag for tag, _ in page.elements]
    # The policy of the page allows one script only.
    assert tags.count("script") == tags.count("main") == tags.count("nav") == tags.count("h1") == 1
    levels = [int(tag[1]) for tag in tags if re.fullmatch("h[1-6]", tag)]
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
    assert tags.count("table") == tags.count("caption") == tags.count("thead")
    without_namespaces = source.replace('xmlns="http://www.w3.org/2000/svg"', "")
    without_images = IMAGE.sub("", without_namespaces.replace("img-src data:;", ""))
    markup = re.sub(r">[^<]*<", "><", re.sub(r'alt="[^"]*"', "", without_images))
    assert not re.search(r"https?:|\bsrc=|@import|url\(|data:|javascript:|\son\w+=", markup)
    own = re.findall(r"<(?:script|style)>(.*?)</", source, flags=re.DOTALL)
    assert len(own) == 2
    assert not any(re.search(r"https?:|\bimport\b|fetch|url", part) for part in own)
    identifiers = [a["id"] for _, a in page.elements if "id" in a]
    assert len(identifiers) == len(set(identifiers))
    references = re.findall(r'(?:href="#|aria-labelledby=")([\w-]+)', source)
    assert set(references) <= set(identifiers)
    assert len(source.encode()) < 1_000_000
    return page


def program_of(source: str) -> str:
    """The program in a report's chapter on how to use the model."""
    chapter = source.partition('<section id="how-to-use-this-model"')[2].partition("</section>")[0]
    (program,) = re.findall("<pre[^>]*>(.*?)</pre>", chapter, re.DOTALL)
    return html.unescape(program)


@dataclass(frozen=True)
class WrittenRun:
    """A run that `write_run` has written, and what is needed to render its report."""

    folder: RunFolder
    space: SearchSpace
    architecture: Architecture
    latencies: dict[str, float]

    def html(self, family: Sequence[RunFolder] = ()) -> str:
        return render_report(self.folder, self.space, self.latencies, family)

    def page(self, family: Sequence[RunFolder] = ()) -> Page:
        return assert_sound(self.html(family))


def written_run(
    path: Path, space: SearchSpace | None = None, stages: tuple[str, ...] = STAGES
) -> WrittenRun:
    """Write a run of a space, by default the tiny NAS-Bench-201 space."""
    space = space or tiny_space("nasbench201")
    folder = RunFolder(path)
    return WrittenRun(folder, space, *write_run(folder, space, stages=stages))


def run_with(path: Path, texts: Sequence[str]) -> WrittenRun:
    """A run with the texts as names of classes, gates, operators, packages, devices, options."""
    run = written_run(path)

    def poison(check: dict[str, Any]) -> None:
        check["gates"] += [
            {"name": text, "status": "fail", "value": 1.0, "limit": 2.0, "detail": text}
            for text in texts
        ]
        check["measured"].update(runtime=texts[0], status=texts[1])
        check["warnings"] = list(texts)
        check["environment"]["packages"] = dict.fromkeys(texts, texts[2])

    change(run.folder.check, poison)
    change(run.folder.environment, lambda e: e.update(platform=texts[3], device=texts[4]))
    rows = [{"class": text, "precision": 0.9, "recall": 0.8, "f1": 0.8, "n": 9} for text in texts]
    change(run.folder.metrics, lambda m: m.update(per_class=rows))
    shares = {text: 1 / len(texts) for text in texts}
    run.folder.write_json(run.folder.operator_shares, {"by": "operator type", "shares": shares})
    names = [text.encode("utf-8", "replace").decode().replace("\0", "") for text in texts]
    write_predictions(run.folder, np.random.default_rng(0), names[:9])
    write_model(run.folder.model, names, input_name=names[5])
    run.folder.config.write_bytes("\n".join(f"# {name}" for name in names).encode())
    return run


def page_of_edited_check(path: Path, edit: Callable[[dict[str, Any]], None]) -> Page:
    """The report of a run without a history after an edit of its `check.json`."""
    run = written_run(path, stages=("architecture", "metrics", "check"))
    change(run.folder.check, edit)
    return run.page()
