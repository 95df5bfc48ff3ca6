"""The model card of a run: what has to be known to use its model, in Hugging Face's form.

The headings are those of Hugging Face's template, the metadata in front those that its hub reads
(https://huggingface.co/docs/hub/model-cards). Everything is read from the run's files; what only
the user knows is marked as to be written.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hwnas.errors import printable
from hwnas.reporting.formatting import count, in_words, kibibytes, milliseconds, number, percent
from hwnas.reporting.run_files import Run, number_at, objects_at, text_at, value_at
from hwnas.reporting.usage import ModelFacts, program
from hwnas.runs.run_folder import RunFolder

PIPELINES = {
    "image-classification": "image-classification",
    "segmentation": "image-segmentation",
    "detection": "object-detection",
    "audio-keywords": "audio-classification",
    "text-classification": "text-classification",
    "language-modelling": "text-generation",
    "question-answering": "question-answering",
    "next-reply": "text-ranking",
    "table-classification": "tabular-classification",
    "image-generation": "unconditional-image-generation",
}
"""The hub's names of the tasks; tasks without one have none."""
TO_WRITE = "*To be written by whoever publishes the model.*"
MANY = 40
"""Classes that are listed by name, at most."""


def render_model_card(folder: RunFolder) -> str | None:
    """The card as Markdown with metadata in YAML; None before there is a model.

    Raises:
        InputError: when a file of the run is damaged.
    """
    facts = ModelFacts.read(folder.model)
    if facts is None:
        return None
    run = Run.read(folder)
    parts = [
        _front_matter(_metadata(run, facts)),
        f"# Model card of {_plain(run.name)}\n",
        _details(run, facts),
        _uses(run),
        _start(facts),
        _training(run, facts),
        _evaluation(run, folder.check),
        _technical(run, facts),
    ]
    return "\n".join(parts)


def _metadata(run: Run, facts: ModelFacts) -> dict[str, Any]:
    """What the hub reads: library, task, tags, and results in its model index."""
    task = facts.properties.get("task", "")
    data = text_at(run.settings, "data", "name") or "not known"
    metrics: list[dict[str, Any]] = []
    if run.score is not None:
        name = in_words(run.metric)
        metrics.append({"type": run.metric, "value": round(run.score, 4), "name": name})
    if run.measured is not None:
        device = run.device or "not known"
        latency = {"type": "latency_ms", "value": round(run.measured.value_ms, 4)}
        metrics.append(latency | {"name": f"milliseconds on {device}"})
    found: dict[str, Any] = {"library_name": "onnx"}
    if task in PIPELINES:
        found["pipeline_tag"] = PIPELINES[task]
    found["tags"] = ["onnx", "hwnas", "neural-architecture-search"]
    if metrics:
        found["metrics"] = [run.metric]
        result = {
            "task": {"type": PIPELINES.get(task, "other"), "name": task},
            "dataset": {"type": data, "name": data},
            "metrics": metrics,
        }
        found["model-index"] = [{"name": run.name, "results": [result]}]
    return found


def _front_matter(metadata: dict[str, Any]) -> str:
    """The metadata in YAML between two lines of dashes; every text is quoted as in JSON."""
    return "\n".join(["---", *_yaml(metadata, ""), "---", ""])


def _yaml(value: Any, indent: str) -> list[str]:
    """The lines of a value in YAML's block style."""
    lines = []
    if isinstance(value, dict):
        for key, item in value.items():
            if isinstance(item, dict | list):
                lines += [f"{indent}{key}:", *_yaml(item, indent + "  ")]
            else:
                lines.append(f"{indent}{key}: {json.dumps(item)}")
        return lines
    for item in value:
        if isinstance(item, dict):
            first, *rest = _yaml(item, indent + "  ")
            lines += [f"{indent}- {first.lstrip()}", *rest]
        else:
            lines.append(f"{indent}- {json.dumps(item)}")
    return lines


def _details(run: Run, facts: ModelFacts) -> str:
    task = facts.properties.get("task", "not known")
    space = text_at(run.architecture, "space") or "not known"
    verdict = run.verdict or "not checked"
    classes = facts.listed("classes")
    rows = [
        ("Task", task),
        ("Input", f"`{facts.input_name}`, {' x '.join(map(str, facts.shape))} after the batch"),
        ("Classes", _named(classes)),
        ("Architecture", f"found in the search space `{_plain(space)}` by hwnas"),
        ("Parameters", count(number_at(run.architecture, "params"))),
        ("Multiply-accumulates", count(number_at(run.architecture, "macs"))),
        ("Latency budget", milliseconds(run.budget_ms)),
        ("Verdict of the check", verdict),
        ("Developed by", TO_WRITE),
        ("License", TO_WRITE),
    ]
    sentence = (
        "A neural network whose architecture was searched for a device and a latency budget, "
        "trained, exported as ONNX and checked."
    )
    return f"## Model Details\n\n### Model Description\n\n{sentence}\n\n{_table(rows)}"


def _uses(run: Run) -> str:
    limits = [
        "The figures below are those of the data and the machine that they name. Inputs from "
        "elsewhere (another camera, another population) can be predicted much worse.",
        "The latency holds for the stated device, runtime, number format, batch and threads.",
        *run.warnings,
        *_trust(run),
    ]
    listed = "\n".join(f"- {_plain(limit)}" for limit in limits)
    return (
        f"## Uses\n\n### Direct Use\n\n{TO_WRITE}\n\n### Out-of-Scope Use\n\n{TO_WRITE}\n\n"
        f"## Bias, Risks, and Limitations\n\n{listed}\n"
    )


def _trust(run: Run) -> list[str]:
    """What an explanation found about the limits of the model."""
    classes = objects_at(run.explanation, "by_class")
    weakest = min(classes, key=lambda c: number_at(c, "accuracy") or 0.0, default=None)
    found = []
    if weakest is not None:
        found.append(
            f"The weakest class is {weakest.get('class')}: accuracy "
            f"{percent(number_at(weakest, 'accuracy'), 1)} on "
            f"{count(number_at(weakest, 'samples'))} samples."
        )
    error = number_at(run.explanation, "calibration", "expected_error")
    if error is not None:
        found.append(f"The expected calibration error of its probabilities is {percent(error, 1)}.")
    clean = number_at(run.explanation, "robustness", "clean", "score")
    rows = [
        (score, one)
        for one in objects_at(run.explanation, "robustness", "rows")
        if (score := number_at(one, "score")) is not None
    ]
    if rows and clean is not None:
        score, one = min(rows, key=lambda pair: pair[0])
        found.append(
            f"Of the disturbances tried, {one.get('kind')} by {number(number_at(one, 'strength'))} "
            f"{one.get('unit')} costs most: {percent(score, 1)} instead of {percent(clean, 1)}."
        )
    return found


def _start(facts: ModelFacts) -> str:
    lines = "\n".join(program(facts))
    return (
        "## How to Get Started with the Model\n\nThese lines need `onnxruntime` and `numpy` "
        f"only.\n\n```python\n{lines}\n```\n"
    )


def _training(run: Run, facts: ModelFacts) -> str:
    data = value_at(run.settings, "data")
    recipe = value_at(run.settings, "train")
    kept = ("batch_size", "optimizer", "learning_rate", "weight_decay", "label_smoothing")
    rows = [("Epochs", count(number_at(run.metrics, "epochs")))]
    if isinstance(recipe, dict):
        rows += [(in_words(key).capitalize(), str(recipe[key])) for key in kept if key in recipe]
    rows.append(("Training time", f"{number(number_at(run.metrics, 'seconds'), 3)} s"))
    name = data.get("name", "not known") if isinstance(data, dict) else "not known"
    normalised = (
        "raw inputs; the model normalises them"
        if facts.reads_raw
        else ("inputs normalised by the mean and deviation in the model's metadata")
    )
    return (
        f"## Training Details\n\n### Training Data\n\n`{_plain(str(name))}`. {TO_WRITE}\n\n"
        f"### Training Procedure\n\nOf {normalised}. `config.toml` has all settings.\n\n"
        f"#### Training Hyperparameters\n\n{_table(rows)}"
    )


def _evaluation(run: Run, check: Path) -> str:
    rows = []
    if run.score is not None:
        samples = count(run.test_samples)
        score = run.score_in_words("95 % confidence interval ")
        rows.append((f"{in_words(run.metric).capitalize()} on {samples} test samples", score))
    if run.measured is not None:
        interval = run.measured.in_words("95 % confidence interval ")
        rows.append(("Latency of one inference", interval))
    if run.predicted_ms is not None:
        rows.append(("Latency predicted by the table", milliseconds(run.predicted_ms)))
    rows += [
        (_plain(str(gate.get("name"))), f"{gate.get('status')}")
        for gate in run.gates
        if gate.get("status") in ("pass", "fail", "inconclusive")
    ]
    day = _day(check)
    when = f" Measured on {day}." if day else ""
    return (
        "## Evaluation\n\n### Testing Data, Factors & Metrics\n\nThe test samples of the data "
        f"above, which neither search nor training saw.{when}\n\n### Results\n\n{_table(rows)}"
    )


def _technical(run: Run, facts: ModelFacts) -> str:
    measured = value_at(run.check, "measured")
    device = value_at(run.latency_table, "device")
    known = device if isinstance(device, dict) else {}
    packages = value_at(run.check, "environment", "packages") or run.environment.get("packages")
    versions = packages if isinstance(packages, dict) else {}
    rows = [
        ("Device", run.device or "not known"),
        ("Runtime", text_at(measured, "runtime") or "not known"),
        *((in_words(k).capitalize(), str(known[k])) for k in ("dtype", "batch", "threads")
          if k in known),
        ("Platform", text_at(run.environment, "platform") or "not known"),
        ("Python", text_at(run.environment, "python") or "not known"),
        *((str(name), str(version)) for name, version in versions.items()),
        ("File", f"{facts.name}, {kibibytes(number_at(run.check, 'model', 'size_bytes'))}, "
                 f"opset {count(number_at(run.check, 'model', 'opset'))}"),
        ("SHA-256", text_at(run.check, "model", "sha256") or "not known"),
    ]  # fmt: skip
    genotype = json.dumps(run.architecture.get("genotype"), ensure_ascii=False)
    return (
        "## Technical Specifications\n\n### Model Architecture and Objective\n\nThe genotype in "
        f"the notation of the space's paper:\n\n```text\n{_plain(genotype)}\n```\n\n"
        f"### Compute Infrastructure\n\n{_table(rows)}"
    )


def _table(rows: Sequence[tuple[str, str]]) -> str:
    lines = ["| | |", "|---|---|", *(f"| {_cell(k)} | {_cell(v)} |" for k, v in rows)]
    return "\n".join(lines) + "\n"


def _cell(words: str) -> str:
    return _plain(words).replace("|", "\\|")


def _plain(words: str) -> str:
    """Text from files on one line, without markup of HTML."""
    return printable(words, 2000).replace("<", "&lt;").replace(">", "&gt;")


def _named(classes: Sequence[str]) -> str:
    if not classes:
        return "none"
    more = f" and {len(classes) - MANY} more" if len(classes) > MANY else ""
    return f"{len(classes)}: {', '.join(classes[:MANY])}{more}"


def _day(path: Path) -> str | None:
    """The day on which a file was written, as 2026-01-31; None without the file."""
    if not path.is_file():
        return None
    return time.strftime("%Y-%m-%d", time.localtime(path.stat().st_mtime))
