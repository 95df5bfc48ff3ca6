"""The memory of a program's values: the best order of its operators, and a place for each value.

A value lives from the operator that writes it to the last one that reads it; the input lives from
the start, and the output to the end. The largest sum of sizes that live at once is the peak, and
the order of operators with the smallest peak is found exactly, by a search for the path of
smallest maximum over the sets of operators that have run (Liberis & Lane, "Neural networks on
microcontrollers: saving memory at inference via operator reordering", arXiv 1910.05110).
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hwnas.deploy.microcontroller.program import Program

MAX_STATES = 200_000
"""Sets of operators that are looked at before the given order is taken."""
MAX_PLACINGS = 200
"""Orders in which values are placed before the smallest arena is taken."""
ALIGNMENT = 4
"""Bytes that the place of each value is a multiple of."""


@dataclass(frozen=True)
class Plan:
    """Where the values of a program are.

    Attributes:
        program: its operators in the order in which they run.
        offsets: byte at which each value begins; values that live at different times may share it.
        bytes: of the whole arena.
        peak_bytes: the largest sum of the sizes that live at once, a lower bound of `bytes`.
        is_best: whether no order has a smaller peak; unknown for very large graphs.
    """

    program: Program
    offsets: dict[int, int]
    bytes: int
    peak_bytes: int
    is_best: bool


def plan(program: Program) -> Plan:
    """Order the operators of a program so that their memory is least, and place their values."""
    sizes = {value: aligned(size) for value, size in program.sizes.items()}
    order = best_order(program, sizes)
    ordered = program if order is None else program.reordered(order)
    lives = lifetimes(ordered)
    peak = peak_of(lives, sizes, len(ordered.steps))
    offsets, used = place(lives, sizes, peak)
    return Plan(ordered, offsets, used, peak, order is not None)


def aligned(size: int) -> int:
    """Bytes of a value of so many int8 elements, rounded up to `ALIGNMENT`."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def lifetimes(program: Program) -> dict[int, tuple[int, int]]:
    """First and last step at which each value lives.

    The inputs live from step 0, the output to the last step.
    """
    last = {program.output: len(program.steps) - 1}
    first: dict[int, int] = {}
    for number, step in enumerate(program.steps):
        first[step.output] = number
        for value in step.inputs:
            first.setdefault(value, 0)
            if value != program.output:
                last[value] = number
    return {value: (begin, last.get(value, begin)) for value, begin in first.items()}


def peak_of(lives: Mapping[int, tuple[int, int]], sizes: Mapping[int, int], steps: int) -> int:
    """The largest sum of sizes that live at the same step."""
    return max(
        sum(sizes[value] for value, (first, last) in lives.items() if first <= step <= last)
        for step in range(steps)
    )


def best_order(program: Program, sizes: Mapping[int, int]) -> list[int] | None:
    """The order of operators with the smallest peak; None if there are too many sets of them.

    Sets of operators that have run are visited in ascending order of the smallest peak that leads
    to them, so that the first path to the full set is best.
    """
    steps = program.steps
    writer = {step.output: number for number, step in enumerate(steps)}
    needs = [
        sum(1 << writer[value] for value in set(step.inputs) if value in writer) for step in steps
    ]
    readers: dict[int, int] = {}
    for number, step in enumerate(steps):
        for value in step.inputs:
            readers[value] = readers.get(value, 0) | 1 << number
    full = (1 << len(steps)) - 1
    inputs = [value for value in readers if value not in writer]

    def lives_after(done: int, value: int) -> bool:
        return value == program.output or bool(readers.get(value, 0) & ~done)

    begin = sum(sizes[value] for value in inputs)
    queue: list[tuple[int, int, int, int]] = [(begin, 0, 0, begin)]
    came: dict[int, tuple[int, int]] = {}
    seen: set[int] = set()
    while queue:
        peak, _, done, living = heapq.heappop(queue)
        if done in seen:
            continue
        seen.add(done)
        if done == full:
            return _path(came, full)
        if len(seen) > MAX_STATES:
            return None
        for number, step in enumerate(steps):
            if done >> number & 1 or needs[number] & ~done:
                continue
            after = done | 1 << number
            during = living + sizes[step.output]
            ended = sum(sizes[v] for v in set(step.inputs) if not lives_after(after, v))
            if not lives_after(after, step.output):
                ended += sizes[step.output]
            if after not in seen:
                reached = max(peak, during)
                known = came.get(after)
                if known is None or reached < known[1]:
                    came[after] = (number, reached)
                    # Of equal peaks, the set with the most operators is continued first.
                    entry = (reached, -after.bit_count(), after, during - ended)
                    heapq.heappush(queue, entry)
    raise AssertionError("operators form a circle")


def _path(came: Mapping[int, tuple[int, int]], full: int) -> list[int]:
    """The order in which the operators of the full set were added."""
    order, done = [], full
    while done:
        number, _ = came[done]
        order.append(number)
        done &= ~(1 << number)
    return order[::-1]


def place(
    lives: Mapping[int, tuple[int, int]], sizes: Mapping[int, int], peak: int
) -> tuple[dict[int, int], int]:
    """A place for each value so that values that live at once do not overlap.

    Each value in turn takes the lowest gap among those placed before it, the largest first. While
    the arena is larger than the peak, the value that ends highest is placed first instead.

    Returns:
        The first byte of each value, and the bytes of the whole arena.
    """
    order = sorted(lives, key=lambda v: (-sizes[v], lives[v]))
    best: tuple[dict[int, int], int] | None = None
    for _ in range(MAX_PLACINGS):
        offsets = _first_fit(order, lives, sizes)
        highest = max(offsets, key=lambda value: offsets[value] + sizes[value])
        used = offsets[highest] + sizes[highest]
        if best is None or used < best[1]:
            best = offsets, used
        if used == peak:
            break
        order.remove(highest)
        order.insert(0, highest)
    assert best is not None
    return best


def _first_fit(
    order: Sequence[int], lives: Mapping[int, tuple[int, int]], sizes: Mapping[int, int]
) -> dict[int, int]:
    """The lowest free place for each value in turn."""
    offsets: dict[int, int] = {}
    for value in order:
        first, last = lives[value]
        taken = sorted(
            (offsets[other], offsets[other] + sizes[other])
            for other in offsets
            if lives[other][0] <= last and first <= lives[other][1]
        )
        offset = 0
        for begin, end in taken:
            if begin - offset >= sizes[value]:
                break
            offset = max(offset, end)
        offsets[value] = offset
    return offsets
