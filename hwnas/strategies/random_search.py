"""Random search, the control that every strategy is compared with (Li & Talwalkar, "Random Search
and Reproducibility for NAS", UAI 2019, arXiv 1902.07638).

On a supernet every step trains one random architecture and nothing is learned; where evaluations
last, the best of them is kept.
"""

from __future__ import annotations

import numpy as np

from hwnas.architecture import Architecture
from hwnas.strategies.sampled import SampledStrategy


class RandomStrategy(SampledStrategy):
    """Uniform draws."""

    name = "random"
    paper = "Li & Talwalkar, Random Search and Reproducibility for NAS, UAI 2019, arXiv 1902.07638"

    def propose(self, rng: np.random.Generator) -> Architecture:
        return self.space.sample(rng)
