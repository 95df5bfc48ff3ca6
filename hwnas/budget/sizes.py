"""Exact limits of memory and work, as microcontrollers have them.

In a space of layers every network is a chain, so its constants and its multiply-accumulates are
sums over what the layers take, and its working memory is the largest of theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hwnas.errors import InputError

KB = 1024
"""Bytes of a kB, as the data sheets of microcontrollers count."""


@dataclass(frozen=True)
class Size:
    """What a network takes on a microcontroller.

    Attributes:
        ram_bytes: working memory of activations, with input and output.
        flash_bytes: constants and code.
        macs: multiply-accumulates of one inference.
    """

    ram_bytes: int
    flash_bytes: int
    macs: int

    def in_words(self) -> str:
        """Such as `12.3 kB RAM, 45.6 kB flash, 60,000 MACs`."""
        ram, flash = self.ram_bytes / KB, self.flash_bytes / KB
        return f"{ram:,.4g} kB RAM, {flash:,.4g} kB flash, {self.macs:,} MACs"


@dataclass(frozen=True)
class LayerSizes:
    """What each option of a space of layers takes.

    Attributes:
        fixed: of the operators that every network has, with the code.
        ram_bytes: (choices, max_options), the working memory of an option's operators.
        flash_bytes: (choices, max_options), their constants.
        macs: (choices, max_options).
    """

    fixed: Size
    ram_bytes: np.ndarray
    flash_bytes: np.ndarray
    macs: np.ndarray

    def of(self, chosen: Sequence[int]) -> Size:
        """What a network takes, given the option of each choice."""
        taken = np.arange(len(chosen)), np.asarray(chosen)
        return Size(
            max(self.fixed.ram_bytes, int(self.ram_bytes[taken].max(initial=0))),
            self.fixed.flash_bytes + int(self.flash_bytes[taken].sum()),
            self.fixed.macs + int(self.macs[taken].sum()),
        )

    def least(self, mask: np.ndarray) -> Size:
        """The smallest of each that a network can have, each for itself."""

        def smallest(values: np.ndarray) -> np.ndarray:
            found: np.ndarray = np.where(mask, values, np.iinfo(np.int64).max).min(axis=1)
            return found

        return Size(
            max(self.fixed.ram_bytes, int(smallest(self.ram_bytes).max(initial=0))),
            self.fixed.flash_bytes + int(smallest(self.flash_bytes).sum()),
            self.fixed.macs + int(smallest(self.macs).sum()),
        )


@dataclass(frozen=True, eq=False)
class SizeLimits:
    """The largest sizes that a network may have; None for no limit.

    Attributes:
        sizes: what the options take.
        ram_bytes: of working memory.
        flash_bytes: of constants and code.
        macs: multiply-accumulates.
    """

    sizes: LayerSizes
    ram_bytes: float | None = None
    flash_bytes: float | None = None
    macs: float | None = None

    def is_kept(self, chosen: Sequence[int]) -> bool:
        """Whether a network keeps all limits, given the option of each choice."""
        return self.are_kept_by(self.sizes.of(chosen))

    def are_kept_by(self, size: Size) -> bool:
        """Whether what a network takes is within all limits."""
        return all(value <= most for _, value, most in self.compared(size))

    def compared(self, size: Size) -> list[tuple[str, float, float]]:
        """Name, value and limit of each size with a limit; memory in kB."""
        rows = (
            ("ram_kb", size.ram_bytes, self.ram_bytes, KB),
            ("flash_kb", size.flash_bytes, self.flash_bytes, KB),
            ("macs", size.macs, self.macs, 1),
        )
        return [(name, value / unit, most / unit) for name, value, most, unit in rows if most]

    def allowed(self) -> np.ndarray:
        """(choices, max_options), whether an option's operators fit into the working memory."""
        most = np.inf if self.ram_bytes is None else self.ram_bytes
        fits: np.ndarray = self.sizes.ram_bytes <= most
        return fits & (self.sizes.fixed.ram_bytes <= most)

    def rows(self) -> list[tuple[np.ndarray, float]]:
        """Linear constraints: what the options take (choices, max_options), and what is left."""
        fixed = self.sizes.fixed
        rows = []
        if self.flash_bytes is not None:
            rows.append((self.sizes.flash_bytes, self.flash_bytes - fixed.flash_bytes))
        if self.macs is not None:
            rows.append((self.sizes.macs, self.macs - fixed.macs))
        return rows

    def require_possible(self, mask: np.ndarray) -> None:
        """Check each limit by itself against the smallest network.

        Args:
            mask: (choices, max_options), True where a choice has that option.

        Raises:
            InputError: for a limit that no network keeps.
        """
        for name, least, most in self.compared(self.sizes.least(mask)):
            if least > most:
                raise InputError(
                    "no architecture keeps the budget",
                    where=f"budget.{name}",
                    expected=f"at least {least:,.6g}",
                    actual=f"{most:,.6g}",
                    mend="raise the budget or use a search space with smaller networks",
                )

    def in_words(self, mask: np.ndarray) -> list[tuple[str, str]]:
        """Each limit, and what is possible: `ram_kb 2` and `ram_kb at least 3.5`.

        Args:
            mask: (choices, max_options), True where a choice has that option.
        """
        return [
            (f"{name} {most:,.6g}", f"{name} at least {least:,.6g}")
            for name, least, most in self.compared(self.sizes.least(mask))
        ]
