"""The documents of `hwnas explain` and `hwnas diagnose` beside a written run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from helpers.run_folders import CLASSES, WrittenRun

from hwnas.spaces.base import SearchSpace

WORDS = ("good", "bad", "long")


def explanation_of(
    space: SearchSpace, taken: dict[str, str], texts: Sequence[str] = WORDS
) -> dict[str, Any]:
    """An `explanation.json` with every part, also those of other tasks.

    Args:
        space: the space.
        taken: the option of each choice.
        texts: at least three, wherever the names of files, layers, classes, columns or words stand.
    """
    names = [choice.name for choice in space.choices]
    rng = np.random.default_rng(0)
    score = {"score": 0.7, "low": 0.65, "high": 0.75}
    change = {"choice": names[0], "from": taken[names[0]], "to": texts[0]}
    return {
        "schema": 1,
        "space": space.name,
        "evaluator": "supernet",
        "runs": [texts[1]],
        "choices": [
            {
                "choice": choice.name,
                "option": taken[choice.name],
                "certainty": {"probability": 0.4, "rank": 1, "entropy": 0.9, "decided_at": 0.5},
                "agreement": {
                    "option": texts[2], "count": 2, "by_chance": 0.04, "stable": row % 2 == 0,
                },
                "alternatives": [
                    {
                        "option": option if row else texts[0],
                        "followers": [names[-1]],
                        "difference_ms": float(rng.normal(0, 0.05)),
                        "deviation_ms": 0.01,
                        "params": -3080,
                        "score": float(rng.normal(0, 0.1)),
                        "error": 0.03,
                        "trained": 0.01,
                    }
                    for option in choice.options
                    if option != taken[choice.name]
                ],
            }
            for row, choice in enumerate(space.choices)
        ],
        "agreement": {"runs": 2, "shared": 0.8, "by_chance": 0.2},
        "budget": {
            "budget_ms": 0.5,
            "predicted_ms": 0.44,
            "price_per_ms": 3.0,
            "largest_factor": 1.1,
            "change": {"factor": 1.04, "latency_ms": 0.51, "choices": [change]},
            "best": [
                {"latency_ms": 0.44, "params": 30_842, "choices": []},
                {"latency_ms": 0.43, "params": 30_000, "choices": [change]},
            ],
        },
        "importance": {
            "samples": 128,
            "score": {name: 1 / len(names) for name in names},
            "latency": {name: 0.5 / len(names) for name in names},
        },
        "calibration": {
            "bins": [
                {"samples": 40, "confidence": c, "accuracy": c**2, "low": 0.9 * c**2, "high": c}
                for c in (0.45, 0.65, 0.85, 0.95)
            ],
            "expected_error": 0.15,
            "by_chance": [0.02, 0.04],
            "overconfidence": 0.14,
        },
        "by_class": [
            {"class": name, "accuracy": 0.7, "low": 0.6, "high": 0.8, "samples": 100}
            for name in (*texts, *CLASSES)
        ],
        "robustness": {
            "metric": "accuracy",
            "samples": 300,
            "clean": {"score": 0.87, "low": 0.85, "high": 0.89},
            "rows": [
                {"kind": kind, "strength": 0.1, "unit": "of the range", **score}
                for kind in ("noise", "blur", texts[2])
            ],
        },
        "attributions": {
            "kind": "maps",
            "residual": 0.02,
            "columns": [{"column": text, "gradients": 0.3, "occlusion": 0.2} for text in texts],
            "texts": [
                {
                    "class": texts[0],
                    "predicted": texts[1],
                    "words": [{"word": t, "gradients": (-1.0) ** i} for i, t in enumerate(texts)],
                }
            ],
        },
        "notes": [texts[1]],
        "seconds": 3.1,
    }  # fmt: skip


def diagnosis_of(texts: Sequence[str] = WORDS) -> dict[str, Any]:
    """A `diagnosis.json` with every part.

    Args:
        texts: at least three, wherever names of layers or notes stand.
    """
    return {
        "schema": 1,
        "lipschitz": {
            "lower": 1.0,
            "median": 0.35,
            "upper": 31_000.0,
            "unbounded": "",
            "samples": 256,
            "largest_norms": [{"layers": text, "norm": 3.7} for text in texts],
        },
        "curvature": {
            "eigenvalues": [119.6, 28.6, -22.4],
            "errors": [1e-6, 0.2, 0.9],
            "trace": 203.4,
            "trace_error": 78.7,
            "sharpness": 0.64,
            "radius": 0.05,
        },
        "convergence": {
            "noise": {"norm": 7.4, "variance": 55.0, "scale": 10.0, "batches": 8},
            "batch_size": 16,
            "learning_rate": 0.1,
            "effective_rate": 0.035,
            "normalised_layers": 23,
            "trend": {"slope": -0.1, "error": 0.02, "has_ended": False},
        },
        "generalisation": {
            "margins": {"low": -1.7, "median": -0.8, "high": -0.2},
            "input_margins": {"low": -9.9, "median": -2.9, "high": -0.7},
            "path_norm": 7.5,
            "sigma": 0.96,
            "pac_bayes": 0.23,
            "head_rademacher": 0.3,
            "random_label_fit": 0.7,
            "random_label_noise": 0.16,
            "samples": 256,
        },
        "search": {
            "norm": 0.03,
            "relative_error": 1.06,
            "cosine": 0.3,
            "learning_rate": 0.1,
            "eigenvalue": -0.04,
        },
        "notes": [texts[0]],
        "seconds": 3.7,
    }


def write_explained(run: WrittenRun, texts: Sequence[str] = WORDS) -> WrittenRun:
    """Write both documents and the attributions of three stored images beside a run."""
    folder, rng = run.folder, np.random.default_rng(0)
    taken = dict(run.architecture.options)
    folder.write_json(folder.explanation, explanation_of(run.space, taken, texts))
    folder.write_json(folder.diagnosis, diagnosis_of(texts))
    maps = rng.normal(size=(2, 3, 8, 6)).astype(np.float32)
    places = np.array([0, 5, 20])
    np.savez(folder.attributions, places=places, gradients=maps[0], occlusion=maps[1])
    return run
