"""Drawings of cells as SVG.

The nodes of a cell are boxes, one below the other. An edge leaves the lower end of its source's
box, runs down a vertical lane beside the boxes and enters its target from the side. The operator's
name is written on the last, horizontal part of the edge. Each edge enters at a height of its own,
so that labels and lines do not overlap in any graph. A stage is drawn as a column of layers, and
sizes as a column of boxes without lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from hwnas.errors import InputError
from hwnas.reporting.cells import SKIP, Cell, Edge
from hwnas.reporting.html import Html, text
from hwnas.reporting.svg import mark, svg_element
from hwnas.reporting.theme import series_class, style_sheet

WIDTH = 360.0
BOX_LEFT, BOX_RIGHT = 151.0, 209.0
LANES_LEFT, LANES_RIGHT = 35.0, 325.0
"""Inner borders of the lanes on both sides; labels are between these borders and the boxes."""
LANE_GAP = 12.0
ROW = 46.0
PLAIN_BOX = 28.0
EXIT = 16.0
LAYER_ROW, LAYER_GAP = 44.0, 14.0
TITLE_ROW = 40.0
LETTERS = 36
"""Letters that fit into a box of a stage."""
CORNER = 6.0

FILE_STYLE = "svg { height: 100vh; color: var(--ink); background: var(--paper); }"
"""Style of an SVG file; a drawing in a page takes these properties from the page."""


@dataclass
class _Box:
    """Vertical position of a node's box, and the height at which edges leave it."""

    top: float
    bottom: float
    exit: float


@dataclass
class _Layout:
    """Positions of boxes and edges.

    Attributes:
        boxes: box of each node.
        left: whether an edge runs on the left side.
        entry: height at which an edge enters its target.
        lane: number of an edge's lane, from the inside outwards.
        lanes: largest number of lanes on one side.
        height: height of the drawing.
    """

    boxes: list[_Box] = field(default_factory=list)
    left: dict[Edge, bool] = field(default_factory=dict)
    entry: dict[Edge, float] = field(default_factory=dict)
    lane: dict[Edge, int] = field(default_factory=dict)
    lanes: int = 0
    height: float = 0.0


@dataclass(frozen=True)
class _Drawing:
    """Shapes within (0, 0) to (WIDTH, height), with a title and a description in words."""

    title: str
    height: float
    parts: list[str]
    description: str = ""


def draw_cell(cell: Cell) -> Html:
    """A cell as SVG.

    Each edge is labelled with its operator and predicted latency; the edges of operators that the
    exported model leaves out are dotted.
    """
    drawing = _draw(cell)
    return svg_element(drawing.title, WIDTH, drawing.height, drawing.parts, drawing.description)


def draw_cells(cells: Sequence[Cell]) -> Html:
    """All cells as one SVG file: cells side by side, stages one below the other.

    Raises:
        InputError: when there are no cells because `read_cells` does not know the space's choices.
    """
    if not cells:
        raise InputError(
            "the search space has no drawing",
            expected="choices that form cells or stages of layers",
        )
    parts = [f"<style>{style_sheet()}{FILE_STYLE}</style>"]
    left = right = top = bottom = 0.0
    for cell in cells:
        drawing = _draw(cell)
        parts.append(
            f'<g transform="translate({left:g} {top:g})">{_label(cell.title, WIDTH / 2, 20)}'
            f'<g transform="translate(0 {TITLE_ROW:g})">{"".join(drawing.parts)}</g></g>'
        )
        right = max(right, left + WIDTH)
        bottom = max(bottom, top + TITLE_ROW + drawing.height)
        if cell.is_stage:
            top = bottom + LAYER_GAP
        else:
            left = right + TITLE_ROW
    return svg_element("Architecture", right, bottom, parts)


def _draw(cell: Cell) -> _Drawing:
    return _draw_stage(cell) if cell.is_stage else _draw_graph(cell)


def _draw_graph(cell: Cell) -> _Drawing:
    """The nodes as boxes, and the edges between them."""
    layout = _lay_out(cell)
    parts = [_draw_edge(cell, edge, layout) for edge in cell.edges]
    names = [cell.node_name(node) for node in range(cell.nodes)]
    if cell.joins_nodes:
        parts.insert(0, _draw_output_lines(cell, layout))
        names.append("output")
    for node, (name, box) in enumerate(zip(names, layout.boxes, strict=True)):
        # Inputs have long names, and no edge enters them.
        margin = 10 if node < cell.inputs else 0
        parts.append(
            f'<rect class="node" x="{BOX_LEFT - margin:g}" y="{box.top:g}" '
            f'width="{BOX_RIGHT - BOX_LEFT + 2 * margin:g}" '
            f'height="{box.bottom - box.top:g}" rx="6"/>'
            + _label(name, (BOX_LEFT + BOX_RIGHT) / 2, (box.top + box.bottom) / 2 + 5)
        )
    title = f"{cell.title}: {len(cell.edges)} operators between {cell.nodes} nodes"
    description = "; ".join(map(cell.describe, cell.edges))
    return _Drawing(title, layout.height, parts, description)


def _draw_stage(cell: Cell) -> _Drawing:
    """The operators in boxes from top to bottom; a skipped layer is a line without a box."""
    parts = []
    middle = WIDTH / 2
    for edge in cell.edges:
        top = 2 + LAYER_ROW * edge.source
        bottom = top + LAYER_ROW - LAYER_GAP
        baseline = (top + bottom) / 2 + 5
        name = _layer_name(cell, edge)
        if edge.operator == SKIP:
            line_end = bottom
            box = _label(name, 12, baseline, "start") + _label(edge.operator, middle + 75, baseline)
        else:
            line_end = top
            box = (
                f'<rect class="node" x="2" y="{top:g}" width="{WIDTH - 4:g}" '
                f'height="{bottom - top:g}" rx="6"/>'
                + _label(name, 12, baseline, "start")
                + _label(_fitting(edge, len(name)), WIDTH - 12, baseline, "end")
            )
        line = f'<path class="axis" d="M{middle:g} {top - LAYER_GAP:g}V{line_end:g}"/>'
        parts.append(
            f"<g><title>{text(cell.describe(edge))}</title>{'' if cell.is_list else line}{box}</g>"
        )
    height = 2 + LAYER_ROW * (cell.nodes - 1)
    kind = "sizes" if cell.is_list else "layers"
    return _Drawing(f"{cell.title}: {len(cell.edges)} {kind}", height, parts)


def _lay_out(cell: Cell) -> _Layout:
    """Give each node a box with one row for every two incoming edges, and each edge a lane."""
    layout = _Layout()
    top = 2.0
    for node in range(cell.nodes):
        incoming = [edge for edge in cell.edges if edge.target == node]
        for i, edge in enumerate(incoming):
            layout.left[edge] = i % 2 == 0
            layout.entry[edge] = top + ROW * (i // 2 + 0.5)
        height = ROW * ((len(incoming) + 1) // 2) if incoming else PLAIN_BOX - EXIT
        bottom = top + height + EXIT
        layout.boxes.append(_Box(top, bottom, bottom - EXIT / 2 - 2))
        top = bottom + 12
    if cell.joins_nodes:
        layout.boxes.append(_Box(top, top + PLAIN_BOX, top + PLAIN_BOX))
    layout.height = layout.boxes[-1].bottom + 2
    for left in (True, False):
        _assign_lanes([edge for edge in cell.edges if layout.left[edge] == left], layout)
    return layout


def _assign_lanes(edges: list[Edge], layout: _Layout) -> None:
    """Assign one lane to all edges of a source; short lanes are inside, long ones outside.

    Args:
        edges: the edges on one side of the boxes.
        layout: receives the lanes.
    """
    spans = {
        edge.source: (
            layout.boxes[edge.source].exit,
            max(layout.entry[other] for other in edges if other.source == edge.source),
        )
        for edge in edges
    }
    taken: list[list[tuple[float, float]]] = []
    for source in sorted(spans, key=lambda s: (spans[s][1] - spans[s][0], s)):
        start, end = spans[source]
        free = (i for i, lane in enumerate(taken) if all(b < start or end < a for a, b in lane))
        index = next(free, len(taken))
        if index == len(taken):
            taken.append([])
        taken[index].append((start, end))
        layout.lane.update({edge: index for edge in edges if edge.source == source})
    layout.lanes = max(layout.lanes, len(taken))


def _lane_x(layout: _Layout, index: int, left: bool) -> float:
    """Horizontal centre of a lane; the outermost one is reserved for the lines to the output."""
    gap = min(LANE_GAP, (LANES_LEFT - 4) / (layout.lanes + 1))
    return LANES_LEFT - gap * (index + 0.5) if left else LANES_RIGHT + gap * (index + 0.5)


def _draw_edge(cell: Cell, edge: Edge, layout: _Layout) -> str:
    left = layout.left[edge]
    lane = _lane_x(layout, layout.lane[edge], left)
    inwards = 1 if left else -1
    side = BOX_LEFT if left else BOX_RIGHT
    y0, y1 = layout.boxes[edge.source].exit, layout.entry[edge]
    turn = lane + inwards * CORNER
    line = (
        f"M{side:g} {y0:g}H{turn:g}Q{lane:g} {y0:g} {lane:g} {y0 + CORNER:g}V{y1 - CORNER:g}"
        f"Q{lane:g} {y1:g} {turn:g} {y1:g}H{side - 7 * inwards:g}"
    )
    css_class = "line" if edge.runs else "line dotted"
    middle = (LANES_LEFT + BOX_LEFT) / 2 if left else (LANES_RIGHT + BOX_RIGHT) / 2
    shape = (
        f'<path class="{css_class}" d="{line}"/>'
        f'<path class="arrow" d="M{side:g} {y1:g}l{-9 * inwards:g} -5v10z"/>'
        f"{_label(edge.operator, middle, y1 - 6)}{_label(edge.cost, middle, y1 + 17)}"
    )
    return mark(cell.describe(edge), shape, series_class(edge.source))


def _draw_output_lines(cell: Cell, layout: _Layout) -> str:
    """The dashed lines from the nodes to the output, along the outermost lane on the right."""
    lane = WIDTH - 3
    output = layout.boxes[-1]
    end = (output.top + output.bottom) / 2
    exits = [box.exit + 6 for box in layout.boxes[cell.inputs : -1]]
    # The lane is drawn once: overlapping dashed lines would fill each other's gaps.
    branches = "".join(f"M{BOX_RIGHT:g} {y:g}H{lane:g}" for y in exits)
    line = f"{branches}M{lane:g} {exits[0]:g}V{end:g}H{BOX_RIGHT + 7:g}"
    return (
        f'<g><title>{text(cell.output)}</title><path class="join" d="{line}"/>'
        f'<path class="join-end" d="M{BOX_RIGHT:g} {end:g}l9 -5v10z"/></g>'
    )


def _layer_name(cell: Cell, edge: Edge) -> str:
    """The name of a layer without the title of its stage, which is above the drawing."""
    return cell.name_of(edge).removeprefix(f"{cell.title}, ")


def _fitting(edge: Edge, taken: int) -> str:
    """The operator and its cost; only the operator if both do not fit beside `taken` letters."""
    words = f"{edge.operator} {edge.cost}".rstrip()
    return words if len(words) + taken <= LETTERS else edge.operator


def _label(words: str, x: float, y: float, anchor: str = "middle") -> str:
    return f'<text x="{x:g}" y="{y:g}" font-size="15" text-anchor="{anchor}">{text(words)}</text>'
