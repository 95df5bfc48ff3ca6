"""Claim: the fixed features of `frechet_score` order spoiled images as a trained classifier's do.

Test images of the Fashion-MNIST slice that ships are compared with training images that are
spoiled in several ways (noise, blur, darkness, few images, few classes, shifts), with strengths
that grow. Each set of images is scored by three kinds of features: those of the fixed network as
they are, the same decorrelated as the task uses them, and the last features of a small classifier
that is trained on other images of the slice.

    python benchmarks/frechet_features.py [--images 1000] [--epochs 2]

Rows: for each spoiling and strength the three scores; last the rank correlations (Spearman) of both
kinds of fixed features with the classifier's over all sets, with n, and the share of the variance
of plain features that their first component has.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from results import append_row
from scipy.stats import spearmanr
from torch import Tensor, nn

from hwnas.data import load_dataset
from hwnas.data.latents import scaled_images
from hwnas.tasks.frechet import Features, frechet_distance, total_variance

NAME = "frechet_features"


def main() -> None:
    """Append a row for each set of images, and the correlations."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=2)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    started, data, count = time.monotonic(), load_dataset(), arguments.images
    order = np.random.default_rng(0).permutation(len(data.train))
    images = scaled_images(torch.from_numpy(data.train.inputs[order]))
    labels = torch.from_numpy(data.train.targets[order])
    real = scaled_images(torch.from_numpy(data.test.inputs[:count]))
    fixed = Features(images[: 4 * count])
    trained = classifier_features(images[count:], labels[count:], arguments.epochs)
    kinds: dict[str, Callable[[Tensor], Tensor]] = {
        "plain": fixed._plain,
        "decorrelated": fixed,
        "classifier": trained,
    }
    scores: dict[str, list[float]] = {kind: [] for kind in kinds}
    for name, strength, spoiled in spoilings(images[:count], labels[:count]):
        for kind, features in kinds.items():
            found, expected = features(spoiled), features(real)
            distance = frechet_distance(found, expected)
            scores[kind].append(1 - distance / total_variance(expected))
        latest = {kind: values[-1] for kind, values in scores.items()}
        append_row(NAME, {"images": name, "strength": strength, **latest, **NOTHING})
    variances = np.linalg.eigvalsh(np.cov(fixed._plain(images[:count]).numpy().T))
    correlations = {
        f"rank_correlation_{kind}": float(spearmanr(scores[kind], scores["classifier"])[0])
        for kind in ("plain", "decorrelated")
    }
    summary = {
        **correlations,
        "first_component": float(variances[-1] / variances.sum()),
        "n": len(scores["plain"]),
        "wall_s": time.monotonic() - started,
    }
    blank = dict.fromkeys(kinds, "")
    append_row(NAME, {"images": "all", "strength": "", **blank, **summary})


NOTHING = dict.fromkeys(
    ("rank_correlation_plain", "rank_correlation_decorrelated", "first_component", "n", "wall_s"),
    "",
)


def spoilings(images: Tensor, labels: Tensor) -> Iterator[tuple[str, float, Tensor]]:
    """Name, strength and images (N, 1, H, W) of each set; the first is not spoiled."""
    yield "none", 0, images
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    for strength in (0.05, 0.1, 0.2, 0.4):
        yield "noise", strength, (images + strength * noise).clamp(0, 1)
    for side in (3, 5, 7, 9):
        yield "blur", side, F.avg_pool2d(images, side, 1, side // 2)
    for factor in (0.9, 0.75, 0.6, 0.4):
        yield "darker by", 1 - factor, factor * images
    for kept in (100, 30, 10, 3):
        copies = -(-len(images) // kept)
        yield "few images", 1 / kept, images[:kept].repeat(copies, 1, 1, 1)[: len(images)]
    for kept in (8, 5, 3, 1):
        yield "classes left out", 10 - kept, images[labels < kept]
    for pixels in (1, 2, 4, 6):
        yield "shift", pixels, images.roll(pixels, 3)
    mean = images.mean(dim=0, keepdim=True)
    for share in (0.25, 0.5, 0.75):
        yield "mixed with the mean", share, (1 - share) * images + share * mean


def classifier_features(images: Tensor, labels: Tensor, epochs: int) -> Callable[[Tensor], Tensor]:
    """The 64 pooled features of a network of three convolutions, trained to tell the classes."""
    layers: list[nn.Module] = []
    for c_in, c_out in ((1, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(c_in, c_out, 3, 2, 1), nn.BatchNorm2d(c_out), nn.ReLU()]
    body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    head = nn.Linear(64, 10)
    optimizer = torch.optim.Adam([*body.parameters(), *head.parameters()], 2e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(head(body(images[batch])), labels[batch]).backward()
            optimizer.step()
    body.eval()

    def features(given: Tensor) -> Tensor:
        with torch.no_grad():
            found: Tensor = body(given).double()
        return found

    return features


if __name__ == "__main__":
    main()
