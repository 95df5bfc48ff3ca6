"""The report: what it says, that it is well-formed, safe and self-contained, at every stage."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.run_folders import HOSTILE, Page, assert_sound, change, variants, write_run
from helpers.tiny import tiny_space
from hypothesis import given, settings
from hypothesis import strategies as st

from hwnas.architecture import Architecture
from hwnas.errors import InputError
from hwnas.reporting.html import number, prose
from hwnas.reporting.report import GATES, render_report
from hwnas.runs.run_folder import RunFolder
from hwnas.spaces.base import SearchSpace
from hwnas.spaces.choices import Choice
from hwnas.spaces.nasbench201 import PRIMITIVES, NasBench201Options, NasBench201Space


@pytest.fixture(params=["darts", "nasbench201"])
def space(request: pytest.FixtureRequest) -> SearchSpace:
    return tiny_space(request.param)


def write_checked_run(folder: RunFolder, edit: Callable[[dict[str, Any]], None]) -> Page:
    """The page of a run without charts whose check was edited."""
    space = tiny_space("nasbench201")
    _, latencies = write_run(folder, space, stages=("architecture", "metrics", "check"))
    change(folder.check, edit)
    return assert_sound(render_report(folder, space, latencies))


class TestWholeRun:
    def test_says_what_the_files_hold(self, tmp_path: Path, space: SearchSpace) -> None:
        folder = RunFolder(tmp_path / "first run")
        architecture, latencies = write_run(folder, space)
        page = assert_sound(render_report(folder, space, latencies))
        for words in (
            "Report of first run", "0.4377 ms", "30,842", "4,812,345",
            "accuracy_drop skipped \u2013 1.25 % accuracy lost by the export, at most",
            "sqnr pass 121.4 dB 80.0 dB signal to error of the outputs, at least",
            "the 10th percentile of the medians of 240 rounds (onnxruntime-cpu",
            "predicted to take 0.4377 ms; measured: 0.4213 ms (0.4129 to 0.4297)",
            "The model takes 3.75 % less than its latency table predicts.",
            "Changes of memory layout that the runtime inserts 0 % 10 % 0 ms",
            "hwnas run config.toml --table latency_table.json --out AGAIN",
            "from 0.2137 ms to 1.374 ms; the budget is 0.5 ms",
            "1 0.44 ms 0.53 ms (0.5194 to 0.5406) fail 71 %",
            "2, chosen 0.44 ms 0.4213 ms (0.4129 to 0.4297) pass 69 %",
            "ankle boot 90 % 80 % 84.7 % 100", "120.6 KiB", "123 s", 'name = "', "2.13.0",
        ):  # fmt: skip
            assert words in page.text, words
        for choice, option in architecture:
            if option != "none":
                latency = re.escape(number(latencies[choice], 3))
                assert re.search(rf"{option} [\d.]+ % [\d.]+ % {latency} ms", page.text), choice
        charts = [str(a["aria-label"]) for tag, a in page.elements if tag == "svg"]
        cells = 2 if space.name == "darts" else 1
        assert len(charts) == len(set(charts)) == 7 + cells + len(space.choices)
        assert charts_of(page) >= {
            "Loss of the search", "Expected latency", "Entropy of the choices", "Training loss"
        }  # fmt: skip

    def test_sections_stand_in_the_order_of_the_questions(
        self, tmp_path: Path, space: SearchSpace
    ) -> None:
        folder = RunFolder(tmp_path / "run")
        _, latencies = write_run(folder, space)
        page = assert_sound(render_report(folder, space, latencies))
        assert [a["href"] for tag, a in page.elements if tag == "a"] == [
            "#main", "#why-to-trust-it", "#the-architecture", "#where-the-time-goes",
            "#how-the-search-went", "#training-of-the-architecture", "#how-to-repeat-it",
        ]  # fmt: skip

    def test_trajectories_say_what_each_choice_became(
        self, tmp_path: Path, space: SearchSpace
    ) -> None:
        folder = RunFolder(tmp_path / "run")
        architecture, latencies = write_run(folder, space)
        source = render_report(folder, space, latencies)
        page = assert_sound(source)
        last = json.loads(folder.history.read_text().splitlines()[60])["probabilities"]
        for row, choice in zip(last, space.choices, strict=True):
            words = " ".join(f"{number(round(100 * p, 2))} %" for p in row)
            assert f"{choice.name} {architecture[choice.name]} {words}" in page.text
        # A mark tells the three most probable options of its step.
        first = json.loads(folder.history.read_text().splitlines()[1])["probabilities"][0]
        best = space.choices[0].options[int(np.argmax(first))]
        assert re.search(rf"<title>step 10: {best} [\d.]+\u00a0%, \w+ [\d.]+", source)

    def test_profiled_shares_stand_beside_the_predicted(self, tmp_path: Path) -> None:
        space = tiny_space("nasbench201")
        folder = RunFolder(tmp_path / "run")
        _, latencies = write_run(folder, space)
        choice = space.choices[0].name
        shares = {"fixed": latencies["fixed"] / sum(latencies.values())}
        shares[choice] = 1 - shares["fixed"]

        def edit(document: dict[str, Any]) -> None:
            document["shares"] = shares

        change(folder.operator_shares, edit)
        page = assert_sound(render_report(folder, space, latencies))
        moved = 1 - shares["fixed"] - latencies[choice] / sum(latencies.values())
        assert f"{number(round(100 * moved, 2))} % of the time is in other parts" in page.text

    def test_shares_that_are_known_by_type_only_are_called_so(self, tmp_path: Path) -> None:
        space = tiny_space("nasbench201")
        folder = RunFolder(tmp_path / "run")
        _, latencies = write_run(folder, space)
        shares = {"by": "operator type", "shares": {"Conv": 0.75, HOSTILE: 0.25}}
        change(folder.operator_shares, lambda document: document.update(shares))
        page = assert_sound(render_report(folder, space, latencies))
        assert "known by operator type only, not by choice" in page.text
        assert "Conv 75 %" in page.text
        assert "profiled share " not in page.text
        folder.operator_shares.unlink()
        page = assert_sound(render_report(folder, space, latencies))
        assert "The exported model was not profiled" in page.text

    def test_variants_stand_side_by_side(self, tmp_path: Path) -> None:
        space = tiny_space("nasbench201")
        folder = RunFolder(tmp_path / "run")
        _, latencies = write_run(folder, space)
        assert "number formats" not in assert_sound(render_report(folder, space, latencies)).text
        folder.variants.mkdir()
        folder.write_json(folder.variants_document, variants())
        page = assert_sound(render_report(folder, space, latencies))
        assert "The fastest that passes is int8." in page.text
        assert "0.412 (0.4 to 0.424)" in page.text
        assert "27.3 dB" in page.text
        assert "fp16 fails sqnr." in page.text
        assert f"int8-dynamic: refused {HOSTILE}" in page.text
        change(folder.variants_document, lambda document: document.update(fastest=None))
        assert "None passes." in assert_sound(render_report(folder, space, latencies)).text

    def test_a_family_has_its_front(self, tmp_path: Path, space: SearchSpace) -> None:
        main, other = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "run/family/0.3ms")
        _, latencies = write_run(main, space)
        write_run(other, space)
        change(other.check, lambda check: check["accuracy"].update(onnx=0.9))
        page = assert_sound(render_report(main, space, latencies, [other]))
        assert "On the front, which no other run beats in both: 2." in page.text
        assert "./front.html" in [a.get("href") for _, a in page.elements]

    def test_verdict_comes_first_in_words(self, tmp_path: Path, space: SearchSpace) -> None:
        folder = RunFolder(tmp_path / "run")
        _, latencies = write_run(folder, space, stages=("architecture", "check"))
        page = assert_sound(render_report(folder, space, latencies))
        first = page.text.index("Verdict: pass")
        assert first < page.text.index("Why to trust it")
        assert page.text[first:].startswith(
            "Verdict: pass The exported model takes 0.4213 ms (95 % interval 0.4129 to 0.4297), "
            "within its budget of 0.5 ms. The accuracy on the test samples is 87.3 %."
        )

    def test_a_table_that_counting_beats_is_told(self, tmp_path: Path, space: SearchSpace) -> None:
        folder = RunFolder(tmp_path / "run")
        _, latencies = write_run(folder, space)
        order = {"kendall": 0.5, "spearman": 0.7}
        audit = {"networks": 20, "spearman": 0.8, "median_error": 0.04}
        for macs, told in ((0.6, False), (0.9, True)):
            controls = {"macs": order | {"spearman": macs}, "params": order}
            table = {"schema": 1, "audit": audit | controls}
            folder.latency_table.write_text(json.dumps(table))
            page = assert_sound(render_report(folder, space, latencies))
            assert "Audited on 20 networks: rank correlation 0.8, median error 4 %" in page.text
            assert ("do not trust this table" in page.text) == told

    def test_same_files_give_the_same_bytes(self, tmp_path: Path) -> None:
        space = tiny_space("darts")
        folder = RunFolder(tmp_path / "run")
        _, latencies = write_run(folder, space)
        assert render_report(folder, space, latencies) == render_report(folder, space, latencies)

    def test_long_history_and_many_classes_stay_small(self, tmp_path: Path) -> None:
        space = tiny_space("nasbench201")
        folder = RunFolder(tmp_path / "run")
        _, latencies = write_run(folder, space)
        rng = np.random.default_rng(0)
        noise = rng.normal(size=(10_000, 4))
        keys = ("loss", "validation_loss", "latency_ms", "entropy")
        lines: list[dict[str, Any]] = [
            {"event": "search", "step": step, **dict(zip(keys, row.tolist(), strict=True))}
            for step, row in enumerate(noise)
        ]
        for line in lines[::10]:
            line["probabilities"] = rng.dirichlet(np.ones(5), size=6).round(4).tolist()
        folder.history.write_text("\n".join(map(json.dumps, lines)))
        classes = [
            {"class": f"class {i:04d}", "precision": 0.5, "recall": 0.5, "f1": i / 1000, "n": 9}
            for i in reversed(range(1000))
        ]
        change(folder.metrics, lambda document: document.update(per_class=classes))
        page = assert_sound(render_report(folder, space, latencies))
        assert "Each point is the mean of 42 records." in page.text
        assert "class 0000" in page.text
        assert "class 0039" in page.text
        assert "class 0040" not in page.text
        assert "40 of 1000 rows are shown." in page.text

    def test_other_spaces_get_a_list_of_their_choices(self, tmp_path: Path) -> None:
        class Renamed(NasBench201Space):
            name = "renamed"

            def _choices(self) -> tuple[Choice, ...]:
                return tuple(Choice(f"layer {i}", PRIMITIVES) for i in range(6))

            def to_genotype(self, architecture: Architecture) -> str:
                return "renamed"

        sizes = {"height": 8, "width": 8, "cells": 1, "channels": 4}
        space = Renamed(NasBench201Options.model_validate(sizes))
        folder = RunFolder(tmp_path)
        architecture, latencies = write_run(folder, space, stages=("architecture",))
        page = assert_sound(render_report(folder, space, latencies))
        for choice, option in architecture:
            assert f"{choice} {option}" in page.text
            assert option == "none" or f"{choice}: {option}" in page.text


def charts_of(page: Page) -> set[str]:
    """Names of the drawings."""
    return {str(a["aria-label"]) for tag, a in page.elements if tag == "svg"}


class TestVerdict:
    def test_failure_names_the_gates(self, tmp_path: Path) -> None:
        def edit(check: dict[str, Any]) -> None:
            check["verdict"] = "fail"
            check["budget_ms"] = 0.4
            check["gates"][0]["status"] = "fail"
            check["gates"][3]["status"] = "fail"

        page = write_checked_run(RunFolder(tmp_path), edit)
        assert "over its budget of 0.4 ms." in page.text
        assert "Gates that failed: budget, agreement." in page.text
        assert "Verdict: fail" in page.text
        assert "Verdict: pass" not in page.text
        assert ("section", {"class": "banner fail", "aria-labelledby": "verdict"}) in page.elements

    def test_undecided_latency_is_said_to_be_too_close(self, tmp_path: Path) -> None:
        def edit(check: dict[str, Any]) -> None:
            check.update(verdict="inconclusive", budget_ms=0.42)

        page = write_checked_run(RunFolder(tmp_path), edit)
        assert "Verdict: inconclusive" in page.text
        assert "too close to tell whether it keeps its budget of 0.42 ms." in page.text
        assert (
            "section",
            {"class": "banner inconclusive", "aria-labelledby": "verdict"},
        ) in page.elements

    def test_a_fast_model_that_fails_elsewhere_keeps_its_budget(self, tmp_path: Path) -> None:
        def edit(check: dict[str, Any]) -> None:
            check["verdict"] = "fail"
            check["gates"][2]["status"] = "fail"

        page = write_checked_run(RunFolder(tmp_path), edit)
        assert "Verdict: fail" in page.text
        assert "within its budget of 0.5 ms" in page.text
        assert "Gates that failed: sqnr." in page.text

    def test_exact_outputs_have_no_error(self, tmp_path: Path) -> None:
        def edit(check: dict[str, Any]) -> None:
            check["parity"].update(max_abs_error=0.0, sqnr_db=None)

        assert "Signal to error no error" in write_checked_run(RunFolder(tmp_path), edit).text

    def test_before_the_check_the_search_measurement_counts(self, tmp_path: Path) -> None:
        space = tiny_space("darts")
        folder = RunFolder(tmp_path)
        _, latencies = write_run(folder, space, stages=("history", "architecture"))
        page = assert_sound(render_report(folder, space, latencies))
        assert "Verdict: not checked yet" in page.text
        assert "The exported model took, when the search measured it, 0.4213 ms" in page.text
        assert "The architecture has not been trained" not in page.text
        assert "The trained network has not been tested yet." in page.text

    def test_every_gate_has_a_unit_and_a_meaning(self, tmp_path: Path) -> None:
        gates = [
            ("energy", 2.5, 3.0), ("parity", 1e-6, None), ("parity: unoptimised", 2e-6, None),
            ("agreement: onnxruntime-cuda", 1.0, 1.0), ("accuracy", 0.87, 0.0),
        ]  # fmt: skip

        def edit(check: dict[str, Any]) -> None:
            check["gates"] = [
                {"name": name, "status": "pass", "value": value, "limit": limit}
                for name, value, limit in gates
            ]

        page = write_checked_run(RunFolder(tmp_path), edit)
        for words in (
            "energy pass 2.5 3 energy of an inference in mJ, at most",
            "outputs as before the export; their largest difference",
            "outputs as without the runtime's optimisation; their largest difference",
            "samples with the same class as by onnxruntime-cuda",
            "accuracy pass 87 % \u2013 accuracy; no minimum was asked for",
        ):
            assert words in page.text, words
        assert GATES.keys() >= {"placement", "memory", "serving_errors", "memory_growth"}

    def test_commands_are_code(self, tmp_path: Path) -> None:
        space = tiny_space("nasbench201")
        folder = RunFolder(tmp_path)
        _, latencies = write_run(folder, space)
        source = render_report(folder, space, latencies)
        assert "not been audited: <code>hwnas table audit</code> compares" in source
        assert "`" not in assert_sound(source).text
        assert prose("a ` <b> alone") == "a ` &lt;b&gt; alone"


class TestMissingStages:
    def test_a_run_that_has_only_begun_says_so_everywhere(
        self, tmp_path: Path, space: SearchSpace
    ) -> None:
        folder = RunFolder(tmp_path)
        write_run(folder, space, stages=())
        page = assert_sound(render_report(folder, space, {}))
        for words in (
            "Verdict: not checked yet", "has not been measured yet", "has not been checked yet",
            "has not found an architecture yet", "no predictions", "search has not run yet",
            "No candidate has been measured yet", "has not been trained yet", "not written yet",
        ):  # fmt: skip
            assert words in page.text, words

    @pytest.mark.parametrize("present", range(16))
    def test_any_set_of_files_makes_a_page(self, tmp_path: Path, present: int) -> None:
        names = ("environment", "architecture", "metrics", "check")
        stages = tuple(name for i, name in enumerate(names) if present >> i & 1)
        space = tiny_space("nasbench201")
        folder = RunFolder(tmp_path)
        _, latencies = write_run(folder, space, stages=stages)
        page = assert_sound(render_report(folder, space, latencies))
        assert ("Verdict: pass" in page.text) == ("check" in stages)
        assert ("not found an architecture" in page.text) == ("architecture" not in stages)

    def test_history_alone_makes_a_page(self, tmp_path: Path) -> None:
        space = tiny_space("nasbench201")
        folder = RunFolder(tmp_path)
        write_run(folder, space, stages=("history",))
        page = assert_sound(render_report(folder, space, {}))
        assert "budget is 0.5 ms" in page.text
        assert ", chosen" not in page.text

    def test_unknown_entropy_leaves_its_chart_out(self, tmp_path: Path) -> None:
        space = tiny_space("nasbench201")
        folder = RunFolder(tmp_path)
        write_run(folder, space, stages=("history",))
        text_of = folder.history.read_text()
        folder.history.write_text(re.sub(r'"entropy": [\d.]+', '"entropy": null', text_of))
        page = assert_sound(render_report(folder, space, {}))
        assert "Entropy of the choices: the run has no records of it." in page.text
        assert "Entropy of the choices" not in charts_of(page)


class TestBadInput:
    def test_hostile_text_is_shown_and_never_markup(self, tmp_path: Path) -> None:
        space = tiny_space("nasbench201")
        folder = RunFolder(tmp_path / "<b onclick=x>run & co")
        _, latencies = write_run(folder, space)

        def poison(check: dict[str, Any]) -> None:
            check["verdict"] = HOSTILE
            check["measured"].update(runtime=HOSTILE, status=HOSTILE)
            check["gates"][0].update(name=HOSTILE, status="fail")
            check["gates"][1]["status"] = HOSTILE
            check["environment"]["\ud800\x00"] = HOSTILE

        change(folder.check, poison)
        change(folder.metrics, lambda m: m["per_class"][0].update({"class": HOSTILE}))
        change(folder.environment, lambda e: e.update(platform=HOSTILE))
        folder.config.write_bytes(b"# </pre></details>" + HOSTILE.encode() + b"\xff\x00")
        source = render_report(folder, space, latencies)
        page = assert_sound(source)
        assert page.text.count("<script>alert('x')</script>") >= 8
        assert "Report of <b onclick=x>run & co" in page.text
        assert source.count("<section") == source.count("</section>") == 7
        assert "b" not in {tag for tag, _ in page.elements}
        source.encode()

    def test_policy_allows_the_own_script_and_nothing_else(self, tmp_path: Path) -> None:
        space = tiny_space("nasbench201")
        folder = RunFolder(tmp_path)
        _, latencies = write_run(folder, space)
        source = render_report(folder, space, latencies)
        (policy,) = [a["content"] for t, a in assert_sound(source).elements if "http-equiv" in a]
        (script,) = re.findall("<script>(.*?)</script>", source, flags=re.DOTALL)
        assert policy is not None
        assert policy.startswith("default-src 'none'; ")
        allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert re.search("script-src ([^;]*);", policy)[1] == f"'sha256-{allowed}'"  # type: ignore[index]
        assert "style-src 'unsafe-inline'" in policy
        assert "*" not in policy
        assert len(script.splitlines()) < 200

    @pytest.mark.parametrize(
        "name, content, cause",
        [
            ("check", '{"schema": 2}', "unknown schema"),
            ("metrics", '{"schema": 1', "not JSON"),
            ("environment", "[]", "not an object"),
            ("architecture", '{"schema": 1}', "missing name"),
            ("architecture", '{"schema": 1, "space": "darts", "choices": {}}', "another space"),
        ],
    )
    def test_damaged_files_are_named(
        self, tmp_path: Path, name: str, content: str, cause: str
    ) -> None:
        space = tiny_space("nasbench201")
        folder = RunFolder(tmp_path)
        write_run(folder, space)
        getattr(folder, name).write_text(content)
        with pytest.raises(InputError, match=cause):
            render_report(folder, space, {})

    def test_folder_without_a_run_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="config.toml"):
            render_report(RunFolder(tmp_path), tiny_space("darts"), {})


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
NUMBERS = st.integers() | st.floats() | st.sampled_from([10**400, 1e308, -1e17, 5e-324, None])
CHECK_PATHS = [
    (key,) for key in ("verdict", "budget_ms", "predicted_ms", "measured", "parity", "accuracy",
                       "model", "gates", "environment")
] + [
    ("measured", "value_ms"), ("measured", "ci_low_ms"), ("measured", "rounds"),
    ("measured", "statistic"), ("parity", "sqnr_db"), ("parity", "max_abs_error"),
    ("accuracy", "onnx"), ("model", "size_bytes"), ("model", "opset"), ("gates", 0),
    ("gates", 0, "name"), ("gates", 1, "value"), ("gates", 1, "status"),
]  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(path=st.sampled_from(CHECK_PATHS), value=JSON_VALUES)
def test_a_field_of_any_form_makes_a_sound_page(
    tmp_path_factory: pytest.TempPathFactory, path: tuple[str | int, ...], value: object
) -> None:
    def edit(check: Any) -> None:
        for key in path[:-1]:
            check = check[key]
        check[path[-1]] = value

    write_checked_run(RunFolder(tmp_path_factory.mktemp("run")), edit)


@settings(max_examples=20, deadline=None)
@given(path=st.sampled_from([("fastest",), ("variants",), ("variants", "int8")]), value=JSON_VALUES)
def test_variants_of_any_form_make_a_sound_page(
    tmp_path_factory: pytest.TempPathFactory, path: tuple[str, ...], value: object
) -> None:
    folder = RunFolder(tmp_path_factory.mktemp("run"))
    space = tiny_space("nasbench201")
    write_run(folder, space, stages=())
    document = variants()
    if len(path) == 1:
        document[path[0]] = value
    else:
        document["variants"][path[1]] = value
    folder.variants.mkdir()
    folder.variants_document.write_text(json.dumps(document))
    assert_sound(render_report(folder, space, {}))


@settings(max_examples=20, deadline=None)
@given(
    records=st.lists(
        st.fixed_dictionaries(
            {"event": st.sampled_from(["budget", "search", "measurement", "train"])},
            optional={
                **dict.fromkeys(("step", "loss", "entropy", "budget_ms"), NUMBERS),
                **dict.fromkeys(("choices", "fastest_ms"), JSON_VALUES),
                "probabilities": JSON_VALUES
                | st.lists(st.lists(NUMBERS, min_size=5, max_size=5), min_size=6, max_size=6),
                "measured": st.fixed_dictionaries(
                    dict.fromkeys(("value_ms", "ci_low_ms", "ci_high_ms"), NUMBERS)
                ),
            },
        ),
        max_size=6,
    )
)
def test_history_of_any_form_makes_a_sound_page(
    tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, Any]]
) -> None:
    folder = RunFolder(tmp_path_factory.mktemp("run"))
    space = tiny_space("nasbench201")
    write_run(folder, space, stages=())
    folder.history.write_text("\n".join(map(json.dumps, records)))
    assert_sound(render_report(folder, space, {}))
