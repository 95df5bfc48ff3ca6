"""Suggestions from a knowledge base: within the budget, with what is predicted, and refusals."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers.command_line import refused
from helpers.runs import settings, table_file

from hwnas.config import load_config
from hwnas.knowledge.base import KnowledgeBase
from hwnas.knowledge.embedding import embed
from hwnas.knowledge.records import RememberedSearch, choices_of, scored_of
from hwnas.pipeline.problem import read_dataset
from hwnas.pipeline.profile import profiled_space

CONFIG = load_config(None, settings("nasbench201"))
SPACE = profiled_space(CONFIG)


def accuracy(architecture) -> float:
    options = [option for _, option in architecture]
    return 0.4 + 0.08 * options.count("nor_conv_1x1") - 0.04 * options.count("avg_pool_3x3")


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> str:
    """A base with one search on the data of the configuration, in which 1x1 convolutions won."""
    rng = np.random.default_rng(0)
    drawn = [SPACE.sample(rng) for _ in range(60)]
    pairs = [(architecture, accuracy(architecture)) for architecture in drawn]
    path = str(tmp_path_factory.mktemp("base") / "base.db")
    record = RememberedSearch(
        created="2026-11-29",
        space=SPACE.name,
        choices=choices_of(SPACE),
        task="image-classification",
        embedding=embed(read_dataset(CONFIG.data, 0)),
        device="a processor",
        runtime="onnxruntime-cpu",
        coefficients_ms=(0.1,),
        budget_ms=1.0,
        evaluator="table",
        evaluations=tuple(scored_of(pairs)),
    )
    KnowledgeBase(path).add(record)
    return path


@pytest.fixture
def suggested(cli, base, tmp_path):
    table = str(table_file("nasbench201", tmp_path))
    given = [part for setting in settings("nasbench201") for part in ("--set", setting)]

    def call(budget_ms: float, *more: str, knowledge: str = base) -> tuple[int, str, str]:
        line = ["suggest", "--knowledge", knowledge, "--table", table, "--budget-ms", budget_ms]
        return cli(*map(str, [*line, *given, *more]))

    return call


def test_the_best_that_is_known_is_suggested_with_its_score(suggested) -> None:
    code, out, err = suggested(1e6, "--json", "-n", "5")
    assert code == 0, err
    document = json.loads(out)
    found = document["suggestions"]
    assert len(found) == 5
    assert document["searches"] == 1
    assert document["trust"] > 0.5
    for one in found:
        architecture = SPACE.architecture(one["choices"])
        # Scores beyond those that are known are not extrapolated.
        known = min(accuracy(architecture), 0.72)
        assert one["score"] == pytest.approx(known, abs=0.1)
        assert one["score_deviation"] > 0
        assert (one["params"], one["macs"]) == SPACE.params_and_macs(architecture)
    assert accuracy(SPACE.architecture(found[0]["choices"])) >= 0.4 + 4 * 0.08
    scores = [one["score"] for one in found]
    assert scores == sorted(scores, reverse=True)


def test_a_tight_budget_is_kept_with_the_stated_confidence(suggested) -> None:
    loose = json.loads(suggested(1e6, "--json")[1])["suggestions"]
    budget_ms = min(one["latency_ms"] for one in loose)
    code, out, err = suggested(budget_ms, "--json", "--budget-confidence", "0.95")
    assert code == 0, err
    for one in json.loads(out)["suggestions"]:
        assert one["latency_ms"] < budget_ms
        assert one["probability"] >= 0.95 - 1e-6


@pytest.mark.slow
def test_the_terminal_lists_scores_and_latencies(suggested) -> None:
    code, out, err = suggested(1e6, "-n", "3")
    assert code == 0, err
    assert out.count("nor_conv") >= 3
    assert "in budget" in out


def test_what_cannot_be_suggested_is_refused(suggested, cli, tmp_path) -> None:
    empty = str(tmp_path / "empty.db")
    KnowledgeBase(empty)
    refused(suggested(1e6, knowledge=empty), "nothing is known", "hwnas remember")
    refused(suggested(1e6, knowledge=str(tmp_path / "absent.db")), "no such knowledge base")
    refused(suggested(1e-9), "no architecture keeps the budget")
