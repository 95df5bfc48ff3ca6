"""Mixed operators: the weighted sum of a choice's candidate operators, and cells of them.

`mixed_op` computes one edge, `mixed_cell` a whole cell, and `weighted_norms` the weighted sum of
batch-normalised branches; `relu_pointwise` brings states to the channels of a cell. A `Candidate`
describes one operator, whose tensors may be `FlatTensors`, an `Edge` one edge of a cell, and a
`Cell` is a cell that is prepared once for all its calls. The folder imports nothing else of hwnas,
so that it can be read, tested and reused on its own.
"""

from hwnas.kernels.cell import Cell
from hwnas.kernels.choice import IMPLEMENTATIONS
from hwnas.kernels.cpu.memory import release_memory
from hwnas.kernels.depthwise import dilated_depthwise_conv2d
from hwnas.kernels.flat import FlatLayout, FlatTensors
from hwnas.kernels.mixed_op import mixed_cell, mixed_op
from hwnas.kernels.plan import Edge
from hwnas.kernels.reference import CANDIDATE_FUNCTIONS, Candidate
from hwnas.kernels.relu_pointwise import relu_pointwise
from hwnas.kernels.weighted_norms import weighted_norms

__all__ = [
    "CANDIDATE_FUNCTIONS",
    "IMPLEMENTATIONS",
    "Candidate",
    "Cell",
    "Edge",
    "FlatLayout",
    "FlatTensors",
    "dilated_depthwise_conv2d",
    "mixed_cell",
    "mixed_op",
    "release_memory",
    "relu_pointwise",
    "weighted_norms",
]
