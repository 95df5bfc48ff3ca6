"""Exact decoding against brute force over whole search spaces."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from helpers.tiny import table_of, tiny_space

from hwnas.budget.cost import CostModel
from hwnas.budget.decode import Decoder, latency_range_ms
from hwnas.budget.limit import Limit
from hwnas.spaces.nasbench201 import EDGES, PRIMITIVES


@pytest.fixture(scope="module")
def nasbench201():
    """Space, cost model, all 15,625 architectures as option indices, and their latencies."""
    space = tiny_space("nasbench201")
    cost = CostModel(space, table_of(space, "torch-cpu"))
    cells = np.array(list(itertools.product(range(len(PRIMITIVES)), repeat=len(EDGES))))
    latencies = np.full(len(cells), cost.fixed_ms)
    # Independent of the space's own rule: walk all paths from the input to the output.
    paths = [(0, 1, 3), (0, 2, 3), (0, 3), (0, 1, 2, 3)]
    rows = {edge: row for row, edge in enumerate(EDGES)}
    live = np.zeros(cells.shape, dtype=bool)
    for path in paths:
        edges = [rows[edge] for edge in itertools.pairwise(path)]
        open_path = (cells[:, edges] != 0).all(axis=1)
        live[np.ix_(open_path, edges)] = True
    for row in range(len(EDGES)):
        latencies += live[:, row] * cost.cost_ms[row, cells[:, row]]
    return space, cost, cells, latencies


def test_cost_model_prices_live_edges_only(nasbench201) -> None:
    space, cost, cells, latencies = nasbench201
    for index in range(0, len(cells), 611):
        architecture = space.architecture([int(i) for i in cells[index]])
        assert cost.latency_ms(architecture) == pytest.approx(latencies[index], rel=1e-12)


def test_latency_range_is_that_of_all_cells(nasbench201) -> None:
    _, cost, _, latencies = nasbench201
    assert latency_range_ms(cost) == pytest.approx((latencies.min(), latencies.max()))


@pytest.mark.parametrize("share", [0.02, 0.2, 0.5, 0.8, 1.0])
def test_k_best_match_brute_force(nasbench201, share: float) -> None:
    space, cost, cells, latencies = nasbench201
    budget_ms = latencies.min() + share * (latencies.max() - latencies.min())
    scores = np.random.default_rng(int(100 * share)).normal(size=space.mask.shape)
    totals = scores[np.arange(len(EDGES)), cells].sum(axis=1)
    feasible = np.flatnonzero(latencies <= budget_ms * (1 + 1e-9))
    expected = np.sort(totals[feasible])[::-1][:4]
    found = Decoder([Limit(cost, budget_ms)]).best(scores, k=4)
    options = [[PRIMITIVES.index(option) for _, option in a] for a in found]
    achieved = [scores[np.arange(len(EDGES)), chosen].sum() for chosen in options]
    assert achieved == pytest.approx(list(expected))
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("runtime", ["torch-cpu", "onnxruntime-cpu"])
def test_best_darts_cell_matches_brute_force(rng, runtime: str) -> None:
    """Both cell types have two nodes; the first keeps both its edges, the second two of three."""
    space = tiny_space("darts", nodes=2)
    cost = CostModel(space, table_of(space, runtime))
    names = space.choices[0].options
    shared_ms = {w.name: ms for w, ms in zip(space.shared_work(), cost.shared_ms, strict=True)}
    sources = [0, 1, 0, 1, 2]
    scores = rng.normal(size=space.mask.shape)
    operators = range(1, 8)
    # For each cell type, score and latency of all its 7^4 * 3 cells.
    halves = []
    for offset in (0, 5):
        cells = []
        for kept in itertools.combinations([2, 3, 4], 2):
            rows = np.array([0, 1, *kept]) + offset
            dropped = offset + next(i for i in (2, 3, 4) if i not in kept)
            for chosen in itertools.product(operators, repeat=4):
                latency_ms = cost.cost_ms[rows, chosen].sum()
                if runtime == "onnxruntime-cpu":
                    done = set()
                    for row, option in zip(rows, chosen, strict=True):
                        name, source = names[option], sources[row - offset]
                        where = f"{'reduce' if offset else 'normal'}/{source}"
                        halves_size = offset and source < 2 and name == "skip_connect"
                        work = {(where, name): cost.cost_ms[row, option]} if "pool" in name else {}
                        if "conv" in name or halves_size:
                            work[where, "relu"] = shared_ms[f"{where} relu"]
                        if halves_size:
                            work[where, "shift"] = shared_ms[f"{where} shift_by_pixel"]
                        latency_ms -= sum(ms for key, ms in work.items() if key in done)
                        done |= set(work)
                cells.append((scores[rows, chosen].sum() + scores[dropped, 0], latency_ms))
        halves.append(np.array(cells))
    fastest_ms, slowest_ms = latency_range_ms(cost)
    assert fastest_ms == pytest.approx(cost.fixed_ms + sum(h[:, 1].min() for h in halves))
    budget_ms = fastest_ms + 0.4 * (slowest_ms - fastest_ms)
    room_ms = budget_ms - cost.fixed_ms
    # The best reduction cell for every normal cell: running maximum in order of latency.
    order = np.argsort(halves[1][:, 1])
    reduce_ms, best = halves[1][order, 1], np.maximum.accumulate(halves[1][order, 0])
    index = np.searchsorted(reduce_ms, room_ms - halves[0][:, 1] + 1e-12, side="right") - 1
    expected = (halves[0][:, 0] + np.where(index >= 0, best[index], -np.inf)).max()
    (found,) = Decoder([Limit(cost, budget_ms)]).best(scores)
    achieved = sum(
        scores[row, choice.options.index(option)]
        for row, (choice, (_, option)) in enumerate(zip(space.choices, found, strict=True))
    )
    assert achieved == pytest.approx(expected)


def test_slower_measurements_lead_to_faster_architectures(rng) -> None:
    space = tiny_space("darts")
    cost = CostModel(space, table_of(space, "torch-cpu"))
    fastest_ms, slowest_ms = latency_range_ms(cost)
    budget_ms = (fastest_ms + slowest_ms) / 2
    scores = cost.cost_ms * rng.uniform(0.5, 1.5, size=cost.cost_ms.shape)
    before = cost.latency_ms(Decoder([Limit(cost, budget_ms)]).best(scores)[0])
    networks = [space.sample(rng) for _ in range(3)]
    slower = cost.corrected(networks, [1.2 * cost.latency_ms(a) for a in networks])
    after = cost.latency_ms(Decoder([Limit(slower, budget_ms)]).best(scores)[0])
    assert 1.19 * after <= budget_ms
    assert after < before


def test_decoding_uses_the_whole_budget_if_slower_is_better(rng) -> None:
    space = tiny_space("darts")
    cost = CostModel(space, table_of(space, "torch-cpu"))
    fastest_ms, slowest_ms = latency_range_ms(cost)
    for share in (0.25, 0.5, 0.75):
        budget_ms = fastest_ms + share * (slowest_ms - fastest_ms)
        (found,) = Decoder([Limit(cost, budget_ms)]).best(cost.cost_ms)
        assert 0.98 * budget_ms <= cost.latency_ms(found) <= budget_ms * (1 + 1e-6)


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("weight", [0.5, 2.0])
def test_size_is_added_to_the_scores(nasbench201, share: float, weight: float) -> None:
    """Against brute force over cells whose operators are all live, so that all they have counts."""
    space, cost, cells, latencies = nasbench201
    budget_ms = latencies.min() + share * (latencies.max() - latencies.min())
    scores = np.random.default_rng(3).normal(size=space.mask.shape)
    mask = space.mask.numpy()
    spread = np.sqrt(sum(row[present].var() for row, present in zip(scores, mask, strict=True)))
    one_hots = space.one_hots([space.architecture([int(i) for i in cell]) for cell in cells])
    live, chosen = (space.run_probability(one_hots, rule).numpy() for rule in ("live", "all"))
    counts = space.coefficient_params_and_macs[1 : space.first_shared]
    sizes = chosen.reshape(len(cells), -1) @ counts
    useful = (sizes == live.reshape(len(cells), -1) @ counts).all(axis=1)
    standardised = (sizes / sizes.std(axis=0)).mean(axis=1)
    values = scores[np.arange(len(EDGES)), cells].sum(axis=1) + weight * spread * standardised
    best = values[useful & (latencies <= budget_ms * (1 + 1e-9))].max()
    decoder = Decoder([Limit(cost, budget_ms)], weight)
    rows = {tuple(cell): index for index, cell in enumerate(cells.tolist())}
    found = [rows[tuple(space.chosen(a))] for a in decoder.best(scores, k=3)]
    assert useful[found].all()
    assert (latencies[found] <= budget_ms * (1 + 1e-9)).all()
    # The standard deviation of sizes is estimated from 200 architectures, and the gap is 1 %.
    assert values[found[0]] >= best - 0.1 * abs(best)
    assert values[found[0]] >= values[useful & (latencies <= budget_ms)].mean()


def test_pruned_options_do_not_outweigh_size(nasbench201) -> None:
    space, cost, _, _ = nasbench201
    scores = np.zeros(space.mask.shape)
    scores[:, 4] = -1e3
    (found,) = Decoder([Limit(cost)], size_weight=2.0).best(scores)
    assert all(option != PRIMITIVES[4] for _, option in found)
    assert all(option == "nor_conv_3x3" for _, option in found)
