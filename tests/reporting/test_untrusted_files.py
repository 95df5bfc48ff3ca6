"""Reports of files with hostile text and values of any type: safe and well-formed pages."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.explained_runs import diagnosis_of, explanation_of, write_explained
from helpers.run_folders import (
    HOSTILE,
    WrittenRun,
    assert_sound,
    change,
    page_of_edited_check,
    variants,
    write_model,
    write_predictions,
    written_run,
)
from helpers.tiny import tiny_space
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hwnas.errors import InputError
from hwnas.reporting.report import render_report

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


def test_hostile_text_is_shown_as_text(tmp_path: Path) -> None:
    run = written_run(tmp_path / "<b onclick=x>run & co")

    def poison(check: dict[str, Any]) -> None:
        check["verdict"] = HOSTILE
        check["measured"].update(runtime=HOSTILE, status=HOSTILE)
        check["gates"][0].update(name=HOSTILE, status="fail")
        check["gates"][1]["status"] = HOSTILE
        check["environment"]["\ud800\x00"] = HOSTILE

    change(run.folder.check, poison)
    write_predictions(run.folder, np.random.default_rng(0), [HOSTILE, "</svg>\n<b>", "sandal"])
    write_model(run.folder.model, [f"'''\n{HOSTILE}", "b"], input_name=HOSTILE)
    change(run.folder.metrics, lambda m: m["per_class"][0].update({"class": HOSTILE}))
    change(run.folder.environment, lambda e: e.update(platform=HOSTILE))
    run.folder.config.write_bytes(b"# </pre></details>" + HOSTILE.encode() + b"\xff\x00")
    source = run.html()
    page = assert_sound(source)
    assert page.text.count("<script>alert('x')</script>") >= 8
    assert "Report of <b onclick=x>run & co" in page.text
    assert source.count("<section") == source.count("</section>") == 9
    assert "b" not in {tag for tag, _ in page.elements}
    source.encode()


def test_policy_allows_only_the_script_of_the_page(run: WrittenRun) -> None:
    source = run.html()
    (policy,) = [a["content"] for t, a in assert_sound(source).elements if "http-equiv" in a]
    (script,) = re.findall("<script>(.*?)</script>", source, flags=re.DOTALL)
    assert policy is not None
    assert policy.startswith("default-src 'none'; ")
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert re.findall("script-src ([^;]*);", policy) == [f"'sha256-{allowed}'"]
    assert "style-src 'unsafe-inline'" in policy
    assert "*" not in policy
    assert len(script.splitlines()) < 200


@settings(max_examples=40, deadline=None)
@given(path=st.sampled_from(CHECK_PATHS), value=JSON_VALUES)
def test_check_with_values_of_any_type_gives_a_sound_page(
    tmp_path_factory: pytest.TempPathFactory, path: tuple[str | int, ...], value: object
) -> None:
    def edit(check: Any) -> None:
        for key in path[:-1]:
            check = check[key]
        check[path[-1]] = value

    page_of_edited_check(tmp_path_factory.mktemp("run"), edit)


@settings(max_examples=20, deadline=None)
@given(path=st.sampled_from([("fastest",), ("variants",), ("variants", "int8")]), value=JSON_VALUES)
def test_variants_with_values_of_any_type_give_a_sound_page(
    tmp_path_factory: pytest.TempPathFactory, path: tuple[str, ...], value: object
) -> None:
    run = written_run(tmp_path_factory.mktemp("run"), stages=())
    document = variants()
    if len(path) == 1:
        document[path[0]] = value
    else:
        document["variants"][path[1]] = value
    run.folder.variants.mkdir()
    run.folder.variants_document.write_text(json.dumps(document))
    assert_sound(render_report(run.folder, run.space, {}))


def places_in(document: Any, above: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """The paths to all values in a document of JSON, of lists those to the first item."""
    if isinstance(document, dict):
        parts: list[tuple[str | int, Any]] = list(document.items())
    else:
        parts = list(enumerate(document[:1])) if isinstance(document, list) else []
    below = [place for key, part in parts for place in places_in(part, (*above, key))]
    return [*((above,) if above else ()), *below]


SPACE = tiny_space("nasbench201")
ASKED = [
    (name, place)
    for name, document in (
        ("explanation", explanation_of(SPACE, {c.name: c.options[0] for c in SPACE.choices})),
        ("diagnosis", diagnosis_of()),
    )
    for place in places_in(document)
    if place != ("schema",)  # an unknown one is refused
]


@settings(max_examples=20, deadline=None)
@given(asked=st.sampled_from(ASKED), value=JSON_VALUES)
def test_explanations_with_values_of_any_type_give_a_sound_page(
    tmp_path_factory: pytest.TempPathFactory,
    asked: tuple[str, tuple[str | int, ...]],
    value: object,
) -> None:
    name, place = asked
    stages = ("architecture", "predictions")
    run = write_explained(written_run(tmp_path_factory.mktemp("run"), stages=stages))

    def edit(document: Any) -> None:
        for key in place[:-1]:
            document = document[key]
        document[place[-1]] = value

    change(getattr(run.folder, name), edit)
    run.page()


@pytest.mark.parametrize(
    "damage",
    [
        {"places": np.array([0, 24, 1])},
        {"places": np.array([0.0, 1.0, 2.0])},
        {"gradients": np.zeros((3, 0, 6), np.float32)},
        {"gradients": np.full((3, 8, 6), np.nan, np.float32)},
        {"occlusion": np.zeros((2, 8, 6), np.float32)},
        {"occlusion": np.zeros((3, 8), np.float32)},
    ],
)
def test_attributions_that_do_not_fit_are_refused(
    tmp_path: Path, damage: dict[str, np.ndarray]
) -> None:
    run = write_explained(written_run(tmp_path / "run"))
    assert "Where the network looks" in run.page().text
    with np.load(run.folder.attributions) as file:
        np.savez(run.folder.attributions, **{**file, **damage})
    with pytest.raises(InputError, match=r"attributions\.npz: the arrays do not belong together"):
        run.html()


def step_with(probabilities: object) -> list[dict[str, Any]]:
    """The history of a search of one step."""
    return [{"event": "search", "step": 10, "loss": 1.0, "probabilities": probabilities}]


@settings(max_examples=20, deadline=None)
@example(records=step_with([[0.2] * 5] * 5))
@example(records=step_with([[0.2] * 5] * 7))
@example(records=step_with([[0.2] * 4] * 6))
@example(records=step_with([*[[0.2] * 5] * 5, None]))
@example(records=step_with([[0.2, None, "0.2", [0.2], {}]] * 6))
@example(records=step_with([[0.2, -0.2, 10**400, float("nan"), True]] * 6))
@example(records=step_with([[0.0] * 5] * 6))
@example(records=step_with({"0": [0.2] * 5}))
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
def test_history_with_values_of_any_type_gives_a_sound_page(
    tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, Any]]
) -> None:
    run = written_run(tmp_path_factory.mktemp("run"), stages=())
    run.folder.history.write_text("\n".join(map(json.dumps, records)))
    assert_sound(render_report(run.folder, run.space, {}))
