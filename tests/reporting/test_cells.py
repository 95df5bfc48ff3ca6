"""Cells and their drawings: every selected operator is drawn, and no label is covered."""

from __future__ import annotations

import html
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from helpers.run_folders import written_run
from helpers.tiny import tiny_space

from hwnas.errors import InputError
from hwnas.reporting.cell_drawings import draw_cell, draw_cells
from hwnas.reporting.cells import Cell, Edge, choice_names, read_cells
from hwnas.spaces.base import SearchSpace


class TestCells:
    @pytest.mark.parametrize("seed", range(5))
    def test_darts_edges_are_those_of_the_genotype(self, seed: int) -> None:
        space = tiny_space("darts")
        architecture = space.sample(np.random.default_rng(seed))
        genotype = space.to_genotype(architecture)
        states = ["c_{k-2}", "c_{k-1}", "0", "1", "2", "3"]
        cells = read_cells(space, architecture, {})
        assert [cell.title for cell in cells] == ["Normal cell", "Reduction cell"]
        for cell, key in zip(cells, ("normal", "reduce"), strict=True):
            expected = [
                f"{cell.title}, {states[source]} to {i // 2}: {operator}"
                for i, (operator, source) in enumerate(genotype[key])
            ]
            assert titles_of(cell) == [
                "the output concatenates all intermediate nodes",
                *expected,
            ]
            drawn = drawn_words(cell)
            assert sorted(drawn) == sorted([*states, "output", *(e.operator for e in cell.edges)])

    def test_nasbench_edges_name_operators_and_dead_ends(self) -> None:
        space = tiny_space("nasbench201")
        architecture = space.from_genotype(
            "|nor_conv_3x3~0|+|none~0|none~1|+|avg_pool_3x3~0|none~1|skip_connect~2|"
        )
        (cell,) = read_cells(space, architecture, {"0>1": 0.0, "0>3": 0.0625})
        assert titles_of(cell) == [
            "Cell, input to 1: nor_conv_3x3 does not run",
            "Cell, input to output: avg_pool_3x3 0.0625 ms",
            "Cell, 2 to output: skip_connect does not run",
        ]
        assert cell.summary == "1 operator runs, predicted to take 0.0625\u00a0ms in total."

    def test_stages_are_chains_of_layers(self) -> None:
        space = tiny_space("mbconv", stage_layers=3)
        architecture = space.architecture([0, 6, 1, 0, 6, 2, 0, 0])
        stages = read_cells(space, architecture, {"stage2/layer1": 0.0625})
        assert [stage.title for stage in stages] == ["Stage 1", "Stage 2", "Stage 3"]
        assert titles_of(stages[1]) == [
            "Stage 2, layer 1: mbconv_3x3_e3 0.0625 ms",
            "Stage 2, layer 2: mbconv_3x3_e1",
            "Stage 2, layer 3: skip_connect",
        ]

    def test_transformer_blocks_are_chains_of_attention_and_mlp(self) -> None:
        space = tiny_space("vit")
        architecture = space.architecture([1, 0, 1, 2, 0])
        blocks = read_cells(space, architecture, {"block1/mlp": 0.0625})
        assert [block.title for block in blocks] == ["Embedding", "Block 1", "Block 2"]
        assert [titles_of(block) for block in blocks] == [
            ["Embedding: c12"],
            ["Block 1, attention: attention_h1", "Block 1, mlp: mlp_r2 0.0625 ms"],
            ["Block 2, attention: skip_connect", "Block 2, mlp: mlp_r1"],
        ]

    def test_sizes_are_listed_and_layers_beyond_the_depth_do_not_run(self) -> None:
        space = tiny_space("elastic")
        architecture = space.architecture([1, 1, 0, 3, *[0, 2, 0] * 2])
        sizes, first, second, _ = read_cells(space, architecture, {"resolution": 0.0625})
        assert [edge.operator for edge in sizes.edges] == ["r9", "d2", "d1", "d1"]
        assert sizes.edges[0].cost == "0.0625\u00a0ms"
        assert [(edge.operator, edge.runs) for edge in (*first.edges, *second.edges)] == [
            ("mbconv_3x3_e1", True),
            ("mbconv_5x5_e3", True),
            ("mbconv_5x5_e1", True),
            ("mbconv_3x3_e1", False),
        ]
        assert sizes.title == "Sizes"
        assert "<path" not in draw_cell(sizes)
        assert titles_of(sizes)[:2] == ["Resolution: r9 0.0625 ms", "Stage 1, depth: d2"]

    def test_nodes_of_a_recurrent_cell_read_the_nodes_that_their_options_name(self) -> None:
        space = tiny_space("rnn")
        genotype = {"recurrent": [["tanh", 0], ["relu", 0]], "concat": [1, 2]}
        (cell,) = read_cells(space, space.from_genotype(genotype), {"node2": 0.0625})
        assert cell.title == "Recurrent cell"
        assert titles_of(cell) == [
            "the output averages all intermediate nodes",
            "Node 1: tanh of node 0",
            "Node 2: relu of node 0 0.0625 ms",
        ]
        assert {"0", "1", "2", "output", "relu", "tanh"} < set(drawn_words(cell))

    def test_cell_without_operators_is_drawn_without_edges(self) -> None:
        space = tiny_space("nasbench201")
        (cell,) = read_cells(space, space.architecture([0] * 6), {})
        assert drawn_words(cell) == ["input", "1", "2", "output"]

    @pytest.mark.parametrize(
        "name", ["darts", "elastic", "macro", "mbconv", "nasbench201", "rnn", "vit"]
    )
    def test_labels_overlap_neither_lines_nor_labels(self, name: str) -> None:
        larger = {"darts": {"nodes": 6}, "mbconv": {"stage_layers": 3}}
        space = tiny_space(name, **larger.get(name, {}))
        rng = np.random.default_rng(0)
        for _ in range(25):
            architecture = space.sample(rng)
            for cell in read_cells(space, architecture, dict.fromkeys(space_names(space), 0.01)):
                assert_readable(draw_cell(cell))

    @pytest.mark.parametrize(
        "name", ["darts", "elastic", "macro", "mbconv", "nasbench201", "rnn", "vit"]
    )
    def test_svg_file_holds_the_drawings_of_all_cells_without_overlap(self, name: str) -> None:
        space = tiny_space(name)
        cells = read_cells(space, space.sample(np.random.default_rng(0)), {})
        namespace = "{http://www.w3.org/2000/svg}"
        root = ElementTree.fromstring(draw_cells(cells))
        _, _, width, height = map(float, root.get("viewBox", "").split())
        corners = []
        for group, cell in zip(root.findall(f"{namespace}g"), cells, strict=True):
            assert group.findtext(f"{namespace}text") == cell.title
            alone = ElementTree.fromstring(draw_cell(cell))
            shapes = group.find(f"{namespace}g")
            assert shapes is not None
            drawn = [ElementTree.tostring(element) for element in shapes]
            assert drawn == [ElementTree.tostring(e) for e in alone if not e.tag.endswith("desc")]
            moves = [re.findall(r"[\d.]+", g.get("transform", "")) for g in (group, shapes)]
            x, y = (sum(map(float, pair)) for pair in zip(*moves, strict=True))
            w, h = map(float, alone.get("viewBox", "").split()[2:])
            assert x + w <= width
            assert y + h <= height
            assert all(x >= right or y >= bottom for right, bottom in corners)
            corners.append((x + w, y + h))

    def test_drawing_without_cells_is_an_error(self) -> None:
        with pytest.raises(InputError, match="no drawing"):
            draw_cells([])

    def test_dense_cells_stay_readable(self) -> None:
        edges = [
            Edge(f"{s}>{t}", s, t, "nor_conv_3x3", 0.01, True)
            for t in range(1, 8)
            for s in range(t)
        ]
        assert_readable(draw_cell(Cell("", 1, 8, tuple(edges))))


def space_names(space: SearchSpace) -> list[str]:
    return [choice.name for choice in space.choices]


def titles_of(cell: Cell) -> list[str]:
    """The titles that the lines of the drawing show under a pointer."""
    namespace = "{http://www.w3.org/2000/svg}"
    root = ElementTree.fromstring(draw_cell(cell))
    titles = [title.text or "" for title in root.iter(f"{namespace}title")]
    return [title.replace("\u00a0", " ") for title in titles]


def drawn_words(cell: Cell) -> list[str]:
    root = ElementTree.fromstring(draw_cell(cell))
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    return sorted((word for word in texts if word), key=lambda word: texts.index(word))


def assert_readable(svg: str) -> None:
    """Check that no label overlaps a label, box or line; letters are as wide as in DejaVu Sans."""
    namespace = "{http://www.w3.org/2000/svg}"
    root = ElementTree.fromstring(svg)
    boxes = []
    for rect in root.iter(f"{namespace}rect"):
        x, y, width, height = (float(rect.get(k, "")) for k in ("x", "y", "width", "height"))
        boxes.append((x, x + width, y, y + height))
    labels: list[tuple[float, float, float, float]] = []
    beside_lines: list[tuple[float, float, float, float]] = []
    for label in root.iter(f"{namespace}text"):
        assert label.get("font-size") == "15"
        width = 0.6 * 15 * len(label.text or "")
        x, y = float(label.get("x", "")), float(label.get("y", ""))
        left = x - {"start": 0.0, "middle": 0.5, "end": 1.0}[label.get("text-anchor", "")] * width
        right, top, bottom = left + width, y - 11, y + 3
        assert left >= 0
        assert right <= 360
        # A node's name is on its box, which hides the lines below.
        in_box = any(
            b[0] <= left and right <= b[1] and b[2] <= top and bottom <= b[3] for b in boxes
        )
        for b in (*([] if in_box else boxes), *labels):
            assert right <= b[0] or b[1] <= left or bottom <= b[2] or b[3] <= top
        labels.append((left, right, top, bottom))
        if not in_box:
            beside_lines.append((left, right, top, bottom))
    for path in root.iter(f"{namespace}path"):
        for x0, y0, x1, y1 in straight_pieces(path.get("d", "")):
            for left, right, top, bottom in beside_lines:
                beside = max(x0, x1) <= left or min(x0, x1) >= right
                assert beside or max(y0, y1) <= top or min(y0, y1) >= bottom


def straight_pieces(d: str) -> list[tuple[float, float, float, float]]:
    """The horizontal and vertical lines of a path of M, H, V and Q."""
    pieces = []
    x = y = 0.0
    for command, arguments in re.findall(r"([MHVQl])([-\d. e]*)", d):
        values = [float(v) for v in arguments.split()]
        if command == "l":
            break
        new_x = values[0] if command == "H" else x if command == "V" else values[-2]
        new_y = values[0] if command == "V" else y if command == "H" else values[-1]
        if command in "HV":
            pieces.append((x, y, new_x, new_y))
        x, y = new_x, new_y
    return pieces


@pytest.mark.parametrize(
    "name, expected",
    [
        (
            "darts",
            {"normal/0>2": "Normal cell, c_{k-2} to 0", "reduce/2>3": "Reduction cell, 0 to 1"},
        ),
        ("nasbench201", {"0>1": "Cell, input to 1", "2>3": "Cell, 2 to output"}),
        ("mbconv", {"stage2/layer1": "Stage 2, layer 1"}),
        ("elastic", {"resolution": "Resolution", "stage1/depth": "Stage 1, depth"}),
        ("vit", {"embedding": "Embedding", "block1/mlp": "Block 1, mlp"}),
        ("rnn", {"node2": "Node 2"}),
    ],
)
def test_choices_have_one_readable_name(name: str, expected: dict[str, str]) -> None:
    names = choice_names(tiny_space(name).choices)
    assert len(set(names.values())) == len(names)
    assert expected.items() <= names.items()


@pytest.mark.parametrize("name", ["darts", "elastic", "mbconv", "nasbench201", "vit"])
def test_all_parts_of_a_report_name_choices_alike(tmp_path: Path, name: str) -> None:
    run = written_run(tmp_path, tiny_space(name))
    page, names = run.page(), choice_names(run.space.choices)
    tables = {
        heading: re.sub(r"<[^>]+>", " ", part)
        for heading, part in re.findall(
            r'aria-label="([^"]+)" tabindex="0"><table(.*?)</table>', run.html(), re.DOTALL
        )
    }
    for choice, option in run.architecture:
        shown = html.escape(names[choice])
        assert f"{shown}: {option}" in html.escape(page.text) or option == "none"
        assert shown in tables["Choices"]
        assert option == "none" or shown in tables["Where the time goes"]
        assert any(shown in words for title, words in tables.items() if "final" in title)
    panels = re.findall(r"<figure><figcaption><strong>(.*?)</strong>", run.html())
    assert set(panels) <= {html.escape(n) for n in names.values()}
