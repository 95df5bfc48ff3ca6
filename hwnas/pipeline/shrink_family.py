"""The stage that shrinks one network to several budgets with a single training.

The decoder finds an architecture for each budget from one estimate of what channels are worth, so
that a smaller network has the most important channels of a larger one. All share their weights in
one training with the original as the teacher. Then each gets its own copy and its own batch norms.
"""

from __future__ import annotations

import copy

import torch
from safetensors.torch import save
from torch import nn

from hwnas.architecture import Architecture
from hwnas.budget.selection import Measured
from hwnas.durable import write_atomic
from hwnas.pipeline.candidates import write_architecture
from hwnas.pipeline.run import Run
from hwnas.pipeline.shrink_formats import in_formats
from hwnas.pipeline.shrink_rounds import ORIGINAL, Rounds
from hwnas.pipeline.train import training_batches
from hwnas.pipeline.transfer import distillation_of
from hwnas.runs.checkpoints import remove_checkpoints
from hwnas.runs.loop import run_steps
from hwnas.shrinking.elastic import SharedNetwork
from hwnas.shrinking.elastic_training import ElasticTraining
from hwnas.training.recalibration import recalibrate_norms
from hwnas.training.train import LOG_EVERY, final_weights

STAGE = "elastic"
"""Names the checkpoints of the training and its records in the history."""


def shrink_family(run: Run) -> Architecture:
    """Find an architecture for each budget of a family, and train all of them at once.

    Writes `inherited.safetensors` and then `architecture.json` for each member. No member is
    trained by itself afterwards.

    Raises:
        InputError: see `shrink_architecture`.
        BudgetError: when no candidate kept one of the budgets as measured.
        Interrupted: after a signal, with everything saved.
    """
    members = [run, *run.family]
    work = Rounds.begun(run)
    for member in members:
        work.require_reachable(member)
    work.left.estimate(1)
    chosen = [work.selected(member) for member in members]
    networks = _trained_together(work, [one.architecture for one in chosen])
    for member, measured, network in zip(members, chosen, networks, strict=True):
        _write_member(work, member, measured, network)
    remove_checkpoints(run.folder.checkpoints, STAGE)
    return run.architecture()


def _trained_together(work: Rounds, architectures: list[Architecture]) -> list[nn.Module]:
    """A trained network of each architecture; all shared their weights while they were trained."""
    run, space = work.run, work.left.space
    whole = copy.deepcopy(work.left.model)
    sizes = [SharedNetwork.of(whole, work.left.narrow_to(one)) for one in architectures]
    distillation = distillation_of(
        run, whole, run.config.train.model_copy(update={"features": 0.0})
    )
    assert distillation is not None
    torch.manual_seed(run.seed("network"))
    training = ElasticTraining(
        whole,
        sizes,
        run.config.train,
        training_batches(run, run.config.train),
        run.problem.task.loss,
        distillation,
        [space.network_of(whole, one).arguments for one in architectures],
    )
    with run.stage(STAGE) as advance:
        run_steps(
            training,
            run.folder,
            stage=STAGE,
            steps=training.steps,
            log_every=LOG_EVERY,
            checkpoint_every=run.config.train.checkpoint_every,
            progress=advance,
        )
    return training.finished()


def _write_member(work: Rounds, member: Run, measured: Measured, network: nn.Module) -> None:
    """Write what a member of the family has of the shared training."""
    if member is not work.run:
        original = next(r for r in work.run.folder.read_history() if r["event"] == ORIGINAL)
        member.folder.append_history(original)
    batches = work.left.recalibration_batches(measured.architecture)
    recalibrate_norms(network, (inputs for inputs, _ in batches))
    state = final_weights(work.left.space.network_of(network, measured.architecture))
    write_atomic(member.folder.inherited, save(state))
    write_architecture(member, in_formats(member.folder, measured))
