"""Random search, the baseline for all other strategies.

Li & Talwalkar, "Random Search and Reproducibility for NAS", UAI 2019 (arXiv 1902.07638). With
lasting outcomes the best architecture is kept; on a supernet every step trains a random
architecture.
"""

from __future__ import annotations

import numpy as np

from hwnas.architecture import Architecture
from hwnas.strategies.sampled import SampledStrategy


class RandomStrategy(SampledStrategy):
    """Draw architectures uniformly."""

    name = "random"
    paper = "Li & Talwalkar, Random Search and Reproducibility for NAS, UAI 2019, arXiv 1902.07638"

    def propose(self, rng: np.random.Generator) -> Architecture:
        return self.space.sample(rng)
