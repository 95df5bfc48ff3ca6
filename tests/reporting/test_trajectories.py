"""The probabilities of the options over the search, as a report shows them."""

from __future__ import annotations

import json
import re

import numpy as np
from helpers.run_folders import WrittenRun

from hwnas.reporting.cells import choice_names
from hwnas.reporting.formatting import number


def test_table_has_the_final_probabilities_of_each_choice(each_run: WrittenRun) -> None:
    text = each_run.page().text
    last = json.loads(each_run.folder.history.read_text().splitlines()[60])["probabilities"]
    for row, choice in zip(last, each_run.space.choices, strict=True):
        words = " ".join(f"{number(round(100 * p, 2))} %" for p in row)
        name = choice_names(each_run.space.choices)[choice.name]
        assert f"{name} {each_run.architecture[choice.name]} {words}" in text


def test_mark_states_the_most_probable_options_of_its_step(each_run: WrittenRun) -> None:
    first = json.loads(each_run.folder.history.read_text().splitlines()[1])["probabilities"][0]
    best = each_run.space.choices[0].options[int(np.argmax(first))]
    assert re.search(rf"<title>step 10: {best} [\d.]+\u00a0%, \w+ [\d.]+", each_run.html())
