"""The settings of a training that takes something over from another network."""

from __future__ import annotations

from pydantic import Field

from hwnas.config.base import Section


class TransferConfig(Section):
    """First weights from another network, growth from a smaller one, and a teacher."""

    start: str | None = Field(
        None,
        alias="from",
        description="a safetensors file with weights of another network: those of the same name "
        "are taken over, their first channels where shapes differ",
    )
    grow: bool = Field(
        False,
        description="begin with the smallest network that can grow into the chosen one, which it "
        "does in the first half of the epochs (Net2Net); for space.name = mbconv, macro, elastic",
    )
    growths: int = Field(
        2,
        ge=1,
        le=16,
        description="times at which it grows, each time where the gradient of what is new is "
        "largest",
    )
    teacher: str | None = Field(
        None,
        description="an ONNX model from whose outputs the network learns too; it reads the same "
        "inputs",
    )
    distillation: float = Field(
        0.5, gt=0, le=1, description="share of the teacher's outputs in the loss"
    )
    features: float = Field(
        0.0,
        ge=0,
        description="weight of the distance to outputs inside the teacher, where a network that is "
        "shrunk has modules with outputs of the same shape",
    )
    temperature: float = Field(
        4.0, gt=0, description="divides the logits of network and teacher in that loss"
    )
