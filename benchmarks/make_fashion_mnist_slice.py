"""Cut the slice of Fashion-MNIST that ships with hwnas.

    HWNAS_DATA=<folder with fashion_mnist.npz> python benchmarks/make_fashion_mnist_slice.py [FILE]

The input holds the official train and test images in their official order. From each, a seeded
random choice of the same number per class is kept, still in that order. The output is an npz
file with LZMA members, a seventh smaller than with numpy's deflate; `numpy.load` reads both.
"""

from __future__ import annotations

import io
import os
import sys
import zipfile
from pathlib import Path

import numpy as np

TRAIN_PER_CLASS = 1200
TEST_PER_CLASS = 200
SEED = 0
OUTPUT = Path(__file__).parents[1] / "hwnas" / "datasets" / "fashion_mnist_slice.npz"


def balanced_indices(labels: np.ndarray, per_class: int, rng: np.random.Generator) -> np.ndarray:
    """Choose `per_class` samples of each class at random; ascending indices."""
    chosen = [
        rng.choice(np.flatnonzero(labels == label), per_class, replace=False)
        for label in np.unique(labels)
    ]
    return np.sort(np.concatenate(chosen))


def cut_slice(source: Path) -> dict[str, np.ndarray]:
    """Return the arrays of the slice: x_train, y_train, x_test, y_test, classes."""
    rng = np.random.default_rng(SEED)
    with np.load(source, allow_pickle=False) as full:
        train = balanced_indices(full["y_train"], TRAIN_PER_CLASS, rng)
        test = balanced_indices(full["y_test"], TEST_PER_CLASS, rng)
        return {
            "x_train": full["x_train"][train],
            "y_train": full["y_train"][train],
            "x_test": full["x_test"][test],
            "y_test": full["y_test"][test],
            "classes": full["classes"],
        }


def write_npz(file: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write the arrays with fixed dates, so that the same input gives the same bytes."""
    with zipfile.ZipFile(file, "w") as archive:
        for key, array in arrays.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, array, allow_pickle=False)
            member = zipfile.ZipInfo(f"{key}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            archive.writestr(member, content.getvalue(), compress_type=zipfile.ZIP_LZMA)


def main() -> None:
    """Write the slice to the package, or to the file named on the command line."""
    if "HWNAS_DATA" not in os.environ:
        sys.exit("set HWNAS_DATA to the folder that holds fashion_mnist.npz")
    output = Path(sys.argv[1]) if len(sys.argv) > 1 else OUTPUT
    write_npz(output, cut_slice(Path(os.environ["HWNAS_DATA"]) / "fashion_mnist.npz"))
    print(f"{output}: {output.stat().st_size} bytes")


if __name__ == "__main__":
    main()
