"""The cost of choosing which operators of a model are int8, and the choices that are best by it.

Between operators of different formats values have to be converted. So the latency of a choice is
modelled by a cost of each operator and one of each pair of neighbours that have the same format.
The noise of quantised operators is taken for independent, so that its power adds up, as in Dong et
al., HAWQ-V2, NeurIPS 2020 (arXiv 1911.03852). The choice with the least noise within a latency is
found exactly, by integer linear programming.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import onnx
from scipy.optimize import Bounds, LinearConstraint, milp

LAYERS = ("Conv", "ConvTranspose", "MatMul", "Gemm")
"""Operators whose format is chosen where they have weights; all others follow their neighbours."""
CHOICES = 4
"""Choices that are returned at most, of different latencies."""
STEPS = 12
"""Latencies between the fastest choice and float32 for which the least noise is sought."""
RIDGES = tuple(10.0**power for power in range(-5, 2))
"""Weights of the costs' squares against the squared error of the predicted latency ratios, of which
the one is taken that predicts left-out choices best."""


@dataclass(frozen=True)
class Layers:
    """The operators whose format is chosen.

    Attributes:
        names: names of the nodes, in the order of the graph.
        free: (layers,), whether an operator may be quantised.
        neighbours: pairs of indices of operators of which the second reads what the first gives,
            directly or through other operators.
        others: of each other node, the indices of the operators before and after it.
    """

    names: tuple[str, ...]
    free: np.ndarray
    neighbours: tuple[tuple[int, int], ...]
    others: dict[str, frozenset[int]]

    def float32_nodes(self, quantised: np.ndarray) -> list[str]:
        """The names of all nodes that stay float32.

        Args:
            quantised: (layers,), whether each operator is quantised. Other nodes are if all
                operators before and after them are.
        """
        kept = [name for name, chosen in zip(self.names, quantised, strict=True) if not chosen]
        return kept + [
            name
            for name, beside in self.others.items()
            if not beside or not all(quantised[index] for index in beside)
        ]


@dataclass(frozen=True)
class MixedChoice:
    """One choice of formats.

    Attributes:
        float32: names of the nodes that stay float32.
        predicted_ratio: predicted latency, as a share of that of the float32 model.
        predicted_sqnr_db: predicted ratio of signal to noise of the outputs; None without noise.
        layers: how many operators are quantised, and how many there are.
    """

    float32: tuple[str, ...]
    predicted_ratio: float
    predicted_sqnr_db: float | None
    layers: tuple[int, int]


@dataclass(frozen=True)
class Costs:
    """Latency of a choice as a share of that of the float32 model.

    Attributes:
        single: (layers,), what each quantised operator adds.
        pairs: (neighbours,), what each pair of neighbours adds if both are quantised.
    """

    single: np.ndarray
    pairs: np.ndarray

    def ratio(self, layers: Layers, quantised: np.ndarray) -> float:
        """The predicted latency ratio of a choice (layers,)."""
        return 1.0 + float(_features(layers, quantised[None])[0] @ np.r_[self.single, self.pairs])


@dataclass(frozen=True)
class FormatCosts:
    """What the formats of a model's operators cost, and what they lose.

    Attributes:
        layers: the operators.
        costs: their latencies.
        noise: (layers,), power of each quantised operator's noise relative to the outputs.
        exclude: names of nodes that stay float32 in any case.
    """

    layers: Layers
    costs: Costs
    noise: np.ndarray
    exclude: tuple[str, ...] = ()

    def choice(self, quantised: np.ndarray) -> MixedChoice:
        """The choice (layers,) with its predictions and the names of its nodes."""
        power = float(self.noise[quantised].sum())
        kept = [*self.exclude, *self.layers.float32_nodes(quantised)]
        return MixedChoice(
            float32=tuple(dict.fromkeys(kept)),
            predicted_ratio=self.costs.ratio(self.layers, quantised),
            predicted_sqnr_db=-10 * float(np.log10(power)) if power else None,
            layers=(int(quantised.sum()), len(self.layers.names)),
        )


def layers_of(model: onnx.ModelProto, free: Collection[str]) -> Layers:
    """The operators with weights in the main graph, and how they are connected.

    Args:
        model: a model whose nodes have names.
        free: names of those that may be quantised.
    """
    nodes = model.graph.node
    weights = {tensor.name for tensor in model.graph.initializer}
    ordered = [
        node.name
        for node in nodes
        if node.op_type in LAYERS and any(name in weights for name in node.input)
    ]
    index = {name: place for place, name in enumerate(ordered)}
    before: dict[str, frozenset[int]] = {}
    ahead = {node.name: frozenset[int]() for node in nodes}
    maker = {name: node for node in nodes for name in node.output}
    pairs: set[tuple[int, int]] = set()
    for node in nodes:
        made_by = [maker[name] for name in node.input if name in maker]
        found = frozenset[int]().union(*(_seen_through(m, index, before) for m in made_by))
        before[node.name] = found
        if node.name in index:
            pairs |= {(first, index[node.name]) for first in found}
    for node in reversed(nodes):
        behind = frozenset([index[node.name]]) if node.name in index else ahead[node.name]
        for name in node.input:
            if name in maker:
                ahead[maker[name].name] |= behind
    others = {n.name: before[n.name] | ahead[n.name] for n in nodes if n.name not in index}
    is_free = np.array([name in free for name in ordered], dtype=bool)
    return Layers(tuple(ordered), is_free, tuple(sorted(pairs)), others)


def _seen_through(
    node: onnx.NodeProto, index: dict[str, int], before: dict[str, frozenset[int]]
) -> frozenset[int]:
    """The operators whose values a reader of a node gets: the node itself, or those before it."""
    return frozenset([index[node.name]]) if node.name in index else before[node.name]


def fit_costs(layers: Layers, designs: np.ndarray, ratios: np.ndarray) -> Costs:
    """Fit the costs to measured choices by ridge regression.

    The weight of the ridge is the one of `RIDGES` with the least squared error of leaving out one
    choice, which the hat matrix gives without fitting again (Allen, "The relationship between
    variable selection and data augmentation and a method for prediction", Technometrics 16, 1974).

    Args:
        layers: the operators.
        designs: (choices, layers) of truth values.
        ratios: (choices,), their latencies as shares of float32's.
    """
    u, singular, vh = np.linalg.svd(_features(layers, designs), full_matrices=False)
    added = ratios - 1.0
    best, least = np.zeros(vh.shape[1]), np.inf
    for ridge in RIDGES:
        shrunk = singular**2 / (singular**2 + ridge)
        left_out = (added - u @ (shrunk * (u.T @ added))) / (1.0 - (u**2) @ shrunk)
        if (error := float(left_out @ left_out)) < least:
            best, least = vh.T @ (singular / (singular**2 + ridge) * (u.T @ added)), error
    return Costs(*np.split(best, [len(layers.names)]))


def _features(layers: Layers, designs: np.ndarray) -> np.ndarray:
    """Which operators and which pairs are quantised, (choices, layers + neighbours)."""
    first, second = np.array(layers.neighbours, dtype=int).reshape(-1, 2).T
    both = designs[:, first] & designs[:, second]
    return np.concatenate([designs, both], axis=1).astype(float)


def frontier(formats: FormatCosts) -> list[np.ndarray]:
    """The choices (layers,) of least noise for several latencies, the fastest first."""
    fastest = fastest_within(formats)
    least = formats.costs.ratio(formats.layers, fastest)
    if least >= 1.0:
        return []
    found, noise = [fastest], formats.noise
    for limit in np.linspace(least, 1.0, STEPS + 1)[:-1]:
        chosen = least_noise(formats, limit + 1e-9)
        if chosen is not None and chosen.any() and noise[chosen].sum() < noise[found[-1]].sum():
            found.append(chosen)
    places = np.unique(np.linspace(0, len(found) - 1, min(CHOICES, len(found))).round().astype(int))
    return [found[place] for place in places]


def least_noise(formats: FormatCosts, limit: float) -> np.ndarray | None:
    """The choice (layers,) of least noise whose predicted ratio is within a limit; None if none."""
    scaled = formats.noise / (formats.noise.max() or 1.0)
    objective = np.r_[scaled + 1e-9, np.zeros(len(formats.layers.neighbours))]
    return _solve(formats.layers, objective, LinearConstraint(_row(formats.costs), ub=limit - 1.0))


def fastest_within(formats: FormatCosts, most_noise: float | None = None) -> np.ndarray:
    """The fastest choice (layers,), within a noise if one is stated; float32 if none is faster."""
    limits = []
    if most_noise is not None:
        pairs = np.zeros(len(formats.layers.neighbours))
        limits.append(LinearConstraint(np.r_[formats.noise / most_noise, pairs], ub=1.0))
    found = _solve(formats.layers, _row(formats.costs), *limits)
    assert found is not None  # float32 itself is a solution
    return found


def _row(costs: Costs) -> np.ndarray:
    return np.concatenate([costs.single, costs.pairs])


def _solve(
    layers: Layers, objective: np.ndarray, *constraints: LinearConstraint
) -> np.ndarray | None:
    """Minimise over operators and pairs; a pair is quantised exactly if both operators are."""
    count, pairs = len(layers.names), len(layers.neighbours)
    rows = np.zeros((3 * pairs, count + pairs))
    lower = np.zeros(3 * pairs)
    for place, (first, second) in enumerate(layers.neighbours):
        pair = count + place
        rows[3 * place, [first, pair]] = 1, -1
        rows[3 * place + 1, [second, pair]] = 1, -1
        rows[3 * place + 2, [first, second, pair]] = -1, -1, 1
        lower[3 * place + 2] = -1
    linked = [LinearConstraint(rows, lb=lower)] if pairs else []
    found = milp(
        objective,
        integrality=np.r_[np.ones(count), np.zeros(pairs)],
        bounds=Bounds(0, np.r_[layers.free, np.ones(pairs)]),
        constraints=[*linked, *constraints],
    )
    return None if found.x is None else np.asarray(found.x[:count] > 0.5)
