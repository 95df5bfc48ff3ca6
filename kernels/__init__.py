"""Mixed operators: the weighted sum of a choice's candidate operators, as one call.

`mixed_op` is the one public operator; `Candidate` describes one operator to it. The folder imports
torch only, so that it can be read, tested and reused on its own.
"""

from hwnas.kernels.depthwise import dilated_depthwise_conv2d
from hwnas.kernels.mixed_op import IMPLEMENTATIONS, mixed_cell, mixed_op
from hwnas.kernels.plan import Edge
from hwnas.kernels.reference import CANDIDATE_FUNCTIONS, Candidate
from hwnas.kernels.weighted_norms import weighted_norms

__all__ = [
    "CANDIDATE_FUNCTIONS",
    "IMPLEMENTATIONS",
    "Candidate",
    "Edge",
    "dilated_depthwise_conv2d",
    "mixed_cell",
    "mixed_op",
    "weighted_norms",
]
