"""The search space of a user's model: its networks and its supernet."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Self

from torch import Tensor, nn

from hwnas.architecture import Architecture, Mixture
from hwnas.data.inputs import InputTensors, parts_of
from hwnas.errors import InputError
from hwnas.latency_tables.table import OpSpec
from hwnas.nn.decisions import Decision
from hwnas.nn.mixed_branches import Mixing, mixed
from hwnas.ops import OperatorModule
from hwnas.spaces.networks import Network
from hwnas.spaces.sharing import SharedSupernet
from hwnas.spaces.traced.described import DescribedSpace
from hwnas.spaces.traced.extraction import Extracted, extract
from hwnas.spaces.traced.finding import Finding
from hwnas.spaces.traced.operators import Operator


class TracedSpace(DescribedSpace):
    """The search space that `space_of` finds in a model.

    Its networks begin with the weights of the model, or the first channels of them.

    Attributes:
        model: a copy of the user's model.
        output_shape: shape of its output for one sample.
        channels_last: whether the model runs in that memory format.
    """

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.describe())
        self.model = finding.model
        self.output_shape = finding.output_shape
        self.channels_last = finding.channels_last
        self._sample_shape = self.options.input_shape
        self._row_of: Mapping[Decision, int] = finding.row_of
        self._operators: Mapping[OpSpec, Operator] = finding.operators

    def operator_module(self, spec: OpSpec) -> OperatorModule:
        return self._operators[spec].measured()

    def reading(self, shape: tuple[int, ...]) -> Self:
        """The same space for samples of another shape, which its networks reshape.

        Args:
            shape: of a sample, with as many values as one that the model reads; () if the model
                has several inputs, which are not reshaped.
        """
        shape = shape or self.options.shape
        sizes: dict[str, Any] = {"shape": shape, "classes": self.output_shape[0]}
        if len(shape) == 3:
            sizes |= dict(zip(("input_channels", "height", "width"), shape, strict=True))
        space = copy.copy(self)
        space.options = self.options.model_copy(update=sizes)
        return space

    def module(self, architecture: Architecture) -> nn.Module:
        """The network of an architecture as a plain module, without anything of hwnas in it."""
        return self._extracted(architecture)[0]

    def network(self, architecture: Architecture) -> TracedNetwork:
        module, rows = self._extracted(architecture)
        names = {path: self.choices[of[-1]].name for path, of in rows.items()}
        return TracedNetwork(module, self, names)

    def reshaping(self) -> nn.Module:
        """Gives samples the shape that the model reads."""
        if self.options.input_shape == self._sample_shape:
            return nn.Identity()
        return nn.Sequential(nn.Flatten(), nn.Unflatten(1, self._sample_shape))

    def _extracted(self, architecture: Architecture) -> Extracted:
        return extract(self.model, self.chosen(architecture), self._row_of)

    def supernet(self, partial_channels: int = 1) -> TracedSupernet:
        return TracedSupernet(self, self._row_of)


class _Traced(nn.Module):
    """What networks and supernets of a user's model share: how it reads its inputs."""

    channels_last: bool
    reshaping: nn.Module

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """As in PyTorch, but in the memory format that the model runs in."""
        if not self.channels_last:
            kwargs.pop("memory_format", None)
        moved: Self = super().to(*args, **kwargs)
        return moved

    def read(self, model: nn.Module, inputs: InputTensors) -> Tensor:
        """The outputs of a model, which has the inputs as arguments."""
        outputs: Tensor = model(*self.arguments(inputs))
        return outputs

    def arguments(self, inputs: InputTensors) -> tuple[Tensor, ...]:
        """Inputs in the shape and memory format that the model reads."""
        return tuple(self.reshaping(self._formatted(x)) for x in parts_of(inputs))

    def _formatted(self, x: Tensor) -> Tensor:
        """An input in the memory format that the model runs in."""
        return x if self.channels_last else x.contiguous()


class TracedNetwork(_Traced, Network):
    """The network of one architecture, for training and deployment.

    Attributes:
        model: the plain module that computes it.
        reshaping: gives samples the shape that the module reads.
    """

    def __init__(
        self,
        model: nn.Module,
        space: TracedSpace,
        choice_modules: Mapping[str, str],
        resize: nn.Module | None = None,
    ) -> None:
        """Wrap a module.

        Args:
            model: the module.
            space: its space.
            choice_modules: the choice that led to each of its submodules, by path.
            resize: gives images the size that the module reads, if that is another one.
        """
        super().__init__()
        self.model, self.reshaping = model, space.reshaping()
        if resize is not None:
            self.reshaping = nn.Sequential(*self.reshaping.children(), resize)
        self.channels_last = space.channels_last
        self.choice_modules = {f"model.{path}": name for path, name in choice_modules.items()}

    def forward(self, x: InputTensors) -> Tensor:
        """The model's outputs; several inputs are a tuple."""
        return self.read(self.model, x)

    def plain(self) -> nn.Module:
        """A copy in eval mode that consists of the user's and PyTorch's own modules."""
        model = copy.deepcopy(self.model).eval()
        if isinstance(self.reshaping, nn.Identity):
            return model
        return nn.Sequential(*copy.deepcopy(self.reshaping).children(), model).eval()


class TracedSupernet(_Traced, SharedSupernet):
    """A copy of the user's model in which every choice is the weighted sum of its options.

    Args:
        space: its choices and its model.
        row_of: the row of each width's decision.
    """

    def __init__(self, space: TracedSpace, row_of: Mapping[Decision, int]) -> None:
        super().__init__()
        self.space = space
        self.channels_last = space.channels_last
        self.mixing = Mixing()
        self.reshaping = space.reshaping()
        self.model = mixed(copy.deepcopy(space.model), row_of, self.mixing)
        self._row_of = row_of

    def forward(self, x: InputTensors, mixture: Mixture) -> Tensor:
        self.mixing.mixture = mixture
        return self.read(self.model, x)

    def weights_of(self, architecture: Architecture) -> dict[str, Tensor]:
        chosen = self.space.chosen(architecture)
        network, _ = extract(self.model, chosen, self._row_of)
        return {f"model.{name}": value.detach() for name, value in network.state_dict().items()}


def space_of(model: nn.Module, example_inputs: Tensor | Sequence[Tensor]) -> TracedSpace:
    """Find the search space in a model whose choices are modules of `hwnas.nn`.

    The model runs on the example, on the CPU, with every option of every choice. Modules with
    choices in them are traced by `torch.fx`: loops over modules and control flow by shapes and
    settings are fine, control flow that depends on the values of tensors is refused. Modules
    without choices in them are never traced, so they may contain any code. A choice reads and
    returns tensors whose first dimension is the batch.

    Args:
        model: an ordinary module; it is copied and not changed. Its weights are the initial weights
            of all networks.
        example_inputs: a batch of inputs (N, ...), or one for each argument of `forward`. Only
            shapes and types matter, and for whole numbers the largest one.

    Returns:
        A search space like the built-in ones. The operators in its latency table are the branches
        of choices and groups of the layers between them.

    Raises:
        InputError: for a model without choices, that cannot be run or traced, or whose choices have
            a single option, the same name, outputs of different shapes, or are never called.
    """
    inputs = (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)
    if not isinstance(model, nn.Module):
        raise InputError(
            "not a model", where="model", expected="a torch.nn.Module", actual=type(model).__name__
        )
    if not inputs or not all(isinstance(x, Tensor) and x.dim() and len(x) for x in inputs):
        raise InputError(
            "not a batch of inputs",
            where="example_inputs",
            expected="a tensor (N, ...), or one for each argument of forward",
        )
    return TracedSpace(Finding.of(model, inputs))
