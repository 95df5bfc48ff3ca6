"""Claim: the autoencoder of `vae` represents search spaces.

    python benchmarks/bench_generators.py [SPACE ...] [--training 40]

At default sizes: the share of unseen architectures that come back as networks that compute the
same, validity and uniqueness of decoded prior samples, choices that change in one of ten steps
along a line between two architectures, and processor seconds of the training and of decoding 100
samples.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from results import append_row

from hwnas.spaces import SPACES, build_space
from hwnas.strategies.autoencoder import ArchitectureVae

COUNT = 500
DECODED = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("spaces", nargs="*", default=sorted(SPACES))
    parser.add_argument("--training", type=int, default=40, help="steps for each choice")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in arguments.spaces:
        space = build_space(name, {})
        started = time.process_time()
        vae = ArchitectureVae(space, 0)
        vae.fit(arguments.training * len(space.choices))
        trained = time.process_time()
        vae.decode(torch.randn(DECODED, vae.latent))
        decoded = time.process_time()
        found = vae.quality(COUNT, np.random.default_rng(1))
        append_row(
            "generators",
            {
                "space": name,
                "choices": len(space.choices),
                "architectures": f"{space.size():.3g}",
                "latent": vae.latent,
                "steps": arguments.training * len(space.choices),
                "samples": COUNT,
                "reconstructed": found.reconstructed,
                "valid": found.valid,
                "unique": found.unique,
                "changes_in_a_step": found.step,
                "differing_choices": found.apart,
                "training_cpu_s": trained - started,
                "decoding_100_cpu_s": decoded - trained,
            },
        )


if __name__ == "__main__":
    main()
