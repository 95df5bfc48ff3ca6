"""The two halves of a search step as CUDA graphs: their launches are recorded once, then replayed.

A recording keeps addresses and numbers as they were. So what changes from step to step is copied
into tensors that stay where they are: inputs, targets, mixing weights and the learning rate. A half
reads no number from the device, copies nothing to it, and draws no random numbers; batches are
augmented before, by seed and step. PyTorch registers its own generator with every recording.

The first calls of each half are ordinary ones. They allocate the optimiser's moments, compile
kernels and copy constants to the device. Each recording keeps the memory of all its activations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from hwnas.architecture import Mixture
from hwnas.supernet.evaluate import Batch

REHEARSALS = 3
"""Ordinary calls before a recording."""

Result = TypeVar("Result")
Tensors = tuple[Tensor, ...]


class Recorder(Protocol):
    """What records launches."""

    def rehearse(self, compute: Callable[[], Result]) -> Result:
        """Compute as a recording will, without one."""

    def record(self, compute: Callable[[], Result]) -> tuple[Callable[[], None], Result]:
        """Record without computing.

        Returns:
            What replays the recording, and the tensors that a replay writes.
        """


class CudaRecorder:
    """Records CUDA graphs on the current device."""

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # PyTorch's has no types

    def rehearse(self, compute: Callable[[], Result]) -> Result:
        """Compute on a stream of its own, since the default one cannot be recorded."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            found = compute()
        torch.cuda.current_stream().wait_stream(self._stream)
        return found

    def record(self, compute: Callable[[], Result]) -> tuple[Callable[[], None], Result]:
        """Record on the same stream."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream):
            found = compute()
        return graph.replay, found


class StepGraph:
    """A function of tensors that is recorded after `REHEARSALS` calls, and then replayed.

    Inputs of other shapes than the recorded ones are computed without the recording.

    Args:
        compute: maps tensors to tensors on the same device. What else it reads or writes must stay
            at its address.
        recorder: records it.
    """

    def __init__(self, compute: Callable[..., Tensors], recorder: Recorder) -> None:
        self._compute = compute
        self._recorder = recorder
        self._calls = 0
        self._inputs: Tensors = ()
        self._outputs: Tensors = ()
        self._replay: Callable[[], None] | None = None

    def __call__(self, *inputs: Tensor) -> Tensors:
        """The results, which the next call overwrites."""
        if self._replay is None:
            if self._calls < REHEARSALS:
                self._calls += 1
                return self._recorder.rehearse(lambda: self._compute(*inputs))
            self._inputs = tuple(t.clone() for t in inputs)
            self._replay, self._outputs = self._recorder.record(
                lambda: self._compute(*self._inputs)
            )
        if [(t.shape, t.dtype) for t in inputs] != [(t.shape, t.dtype) for t in self._inputs]:
            return self._compute(*inputs)
        for kept, given in zip(self._inputs, inputs, strict=True):
            kept.copy_(given)
        self._replay()
        return self._outputs


class SearchGraphs:
    """The architecture's and the weights' half of a search step, each as a `StepGraph`.

    Args:
        judge: returns the loss of a mixture on a batch and its gradient by the mixing weights.
        train: trains the weights on a batch, and returns the loss.
        recorder: records both.
    """

    def __init__(
        self,
        judge: Callable[[Batch, Mixture], tuple[Tensor, Tensor]],
        train: Callable[[Batch, Mixture], Tensor],
        recorder: Recorder,
    ) -> None:
        self._judge = judge
        self._train = train
        self._active: tuple[tuple[int, ...], ...] | None = None
        self._judged = StepGraph(self._judge_tensors, recorder)
        self._trained = StepGraph(self._train_tensors, recorder)

    def loss(self, batch: Batch, mixture: Mixture) -> Tensor:
        """The loss of a mixture, a scalar that can be differentiated by its weights once.

        Args:
            batch: inputs and targets.
            mixture: on the same device; all mixtures have the same active options.
        """
        loss, gradient = self._judged(*self._tensors(batch, mixture))
        weights = mixture.weights
        return loss + (gradient * (weights - weights.detach())).sum()

    def train(self, batch: Batch, mixture: Mixture) -> Tensor:
        """Train the weights as the function does that was given, and return the loss."""
        return self._trained(*self._tensors(batch, mixture))[0]

    def _tensors(self, batch: Batch, mixture: Mixture) -> Tensors:
        """Mixing weights, targets and inputs."""
        inputs, targets = batch
        self._active = mixture.active
        several = inputs if isinstance(inputs, tuple) else (inputs,)
        return (mixture.weights.detach(), targets, *several)

    def _judge_tensors(self, weights: Tensor, targets: Tensor, *inputs: Tensor) -> Tensors:
        return self._judge(_batch(inputs, targets), Mixture(weights, self._active))

    def _train_tensors(self, weights: Tensor, targets: Tensor, *inputs: Tensor) -> Tensors:
        return (self._train(_batch(inputs, targets), Mixture(weights, self._active)),)


def _batch(inputs: Tensors, targets: Tensor) -> Batch:
    return inputs if len(inputs) > 1 else inputs[0], targets
