"""Exact spectral norms of linear maps, among them convolutions as they are computed.

The largest singular value of a convolution is that of the whole map from images to images, with its
padding, stride, dilation and groups. The norm of the reshaped kernel (C_out, C_in * k * k) is
another number: it can be smaller by a factor of up to k.

Shapes: C channels, H rows, W columns, k side of a kernel.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh
from torch import Tensor

from hwnas.errors import HwnasError

TOLERANCE = 1e-5
"""Relative error of eigenvalues at which the iteration ends."""
DENSE = 4
"""Maps with at most so many inputs or outputs are written out as a matrix."""


def operator_norm(
    function: Callable[[Tensor], Tensor], shape: tuple[int, ...], dtype: torch.dtype = torch.float64
) -> float:
    """Return the largest singular value of an affine map's linear part.

    The largest eigenvalue of A^T A is found by implicitly restarted Lanczos (Lehoucq, Sorensen &
    Yang, "ARPACK Users' Guide", SIAM 1998). It converges from below, to a relative error of about
    `TOLERANCE`. A^T is applied by automatic differentiation, so each iteration costs a forward and
    a backward pass of one sample; 20 to 60 are usual.

    Args:
        function: affine in its input; maps a tensor of `shape` to a tensor.
        shape: of the input.
        dtype: in which the map is computed.

    Raises:
        HwnasError: when the iteration does not converge.
    """
    size = math.prod(shape)
    origin = torch.zeros(shape, dtype=dtype)

    def gram(vector: np.ndarray) -> np.ndarray:
        x = torch.zeros(shape, dtype=dtype, requires_grad=True)
        outputs = function(x)
        direction = torch.from_numpy(np.ascontiguousarray(vector)).to(dtype).view(shape)
        with torch.no_grad():
            image = function(direction) - offset
        (found,) = torch.autograd.grad(outputs, x, image)
        result: np.ndarray = found.reshape(-1).double().numpy()
        return result

    with torch.no_grad():
        offset = function(origin)
    if size <= DENSE:
        matrix = np.stack([gram(row) for row in np.eye(size)])
        return math.sqrt(max(float(np.linalg.eigvalsh(matrix)[-1]), 0.0))
    start = np.random.default_rng(0).standard_normal(size)
    operator = LinearOperator((size, size), matvec=gram, dtype=np.float64)
    if not np.any(gram(start)):
        return 0.0
    try:
        values = eigsh(operator, k=1, tol=TOLERANCE, v0=start, return_eigenvectors=False)
    except ArpackNoConvergence as error:
        raise HwnasError("the spectral norm did not converge", actual=str(error)) from None
    return math.sqrt(max(float(values[0]), 0.0))


def circular_conv_norm(weight: Tensor, size: tuple[int, int]) -> float:
    """Return the largest singular value of a convolution with circular padding and stride 1.

    The singular values are those of the C_out x C_in matrices of the kernel's Fourier transform,
    one for each frequency: Sedghi, Gupta & Long, "The Singular Values of Convolutional Layers",
    ICLR 2019 (arXiv 1805.10408), theorem 6. Exact, at the cost of H * W small decompositions.

    Args:
        weight: (C_out, C_in, k, k), with k at most H and W.
        size: H and W of the images.
    """
    transforms = torch.fft.fft2(weight.double(), s=size)
    return float(torch.linalg.svdvals(transforms.permute(2, 3, 0, 1)).max())


def pool_norm(kernel: tuple[int, int], stride: tuple[int, int]) -> float:
    """Return a bound on the Lipschitz constant of max pooling in the Euclidean norm.

    Each output copies one input, and each input is in at most ceil(k / stride) windows along either
    side, so the constant is at most the square root of their product; windows that do not overlap
    give exactly 1.
    """
    windows = [math.ceil(k / s) for k, s in zip(kernel, stride, strict=True)]
    return math.sqrt(math.prod(windows))
