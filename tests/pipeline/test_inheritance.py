"""Networks that take their weights from the supernet: what they are, and who may."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from helpers.runs import settings, table_file
from safetensors.torch import load_file

from hwnas.architecture import Mixture
from hwnas.config import load_config
from hwnas.data import split_train
from hwnas.errors import InputError
from hwnas.pipeline import stages
from hwnas.pipeline.run import Run
from hwnas.pipeline.train import train
from hwnas.runs.checkpoints import load_checkpoint
from hwnas.spaces import SPACES
from hwnas.spaces.sharing import SharedSupernet
from hwnas.supernet.evaluate import recalibrate
from hwnas.training.evaluate import predictions

SHARED = [
    "search.strategy='spos'",
    "search.sandwich=1",
    "search.distillation=0.5",
    "train.inherit=true",
]
QUICK = ["search.steps=6", "latency.measure_seconds=0.5", "data.train_limit=200"]


def configured(space: str, *more: str):
    return load_config(None, settings(space, *QUICK, *SHARED, *more))


@pytest.fixture(scope="module", params=["elastic", pytest.param("vit", marks=pytest.mark.slow)])
def searched(request, tmp_path_factory):
    """A finished search, and training that keeps the weights."""
    folder = tmp_path_factory.mktemp(request.param)
    config = configured(request.param, "train.epochs=0")
    table = table_file(request.param, folder)
    stages.search(config, folder / "run", table=table)
    run = Run.open(folder / "run")
    return run, train(run)


def test_without_epochs_the_network_is_the_recalibrated_supernet(searched) -> None:
    run, metrics = searched
    _, state = load_checkpoint(run.folder.checkpoints, "search")
    supernet = run.problem.supernet()
    assert isinstance(supernet, SharedSupernet)
    supernet.load_state_dict(state["supernet"])
    one_hot: Mixture = run.problem.space.one_hot(run.architecture())
    training, _ = split_train(run.problem.dataset.train, 0.5, run.seed("halves"))
    config = run.config.search
    batches = run.batches(training, config.batch_size, "recalibration")
    recalibrate(supernet, one_hot, [batches.batch(i) for i in range(config.recalibration_batches)])
    network = run.trained_network()
    images = run.batches(training, 8, "any").batch(0)[0]
    with torch.no_grad():
        expected = supernet.eval()(images, one_hot)
        torch.testing.assert_close(network(images), expected, rtol=1e-4, atol=1e-5)
    found = run.problem.task.metrics(
        predictions(network, run.problem.dataset.test, run.problem.dataset, run.device)
    )
    assert metrics["accuracy"] == found["accuracy"]
    assert metrics["epochs"] == 0
    inherited, weights = load_file(run.folder.inherited), load_file(run.folder.weights)
    assert inherited.keys() == weights.keys()
    assert all(torch.equal(inherited[name], value) for name, value in weights.items())


def test_training_goes_on_from_there(searched) -> None:
    run, _ = searched
    slow = {"epochs": 1, "learning_rate": 1e-6}
    settings = {"train": run.config.train.model_copy(update=slow)}
    other = Run(run.config.model_copy(update=settings), run.folder)
    train(other, restart=True)
    inherited, weights = load_file(run.folder.inherited), load_file(run.folder.weights)
    changed = 0
    for name, value in weights.items():
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(value, inherited[name], rtol=1e-3, atol=1e-4)
            changed += not torch.equal(value, inherited[name])
    assert changed


def test_the_weights_of_another_architecture_are_refused(searched) -> None:
    run, _ = searched
    stated = json.loads(run.folder.architecture.read_text())
    rng = np.random.default_rng(0)
    count = run.problem.space.params_and_macs(run.architecture())[0]
    others = (run.problem.space.sample(rng) for _ in range(100))
    other = next(a for a in others if run.problem.space.params_and_macs(a)[0] != count)
    try:
        run.folder.write_json(run.folder.architecture, stated | other.to_json())
        with pytest.raises(InputError, match=r"inherited.safetensors.*hwnas search"):
            train(run, restart=True)
    finally:
        run.folder.write_json(run.folder.architecture, stated)


@pytest.mark.parametrize("space", sorted(SPACES))
def test_only_supernets_that_share_their_weights_are_inherited_from(space: str, tmp_path) -> None:
    """The contract: a space's supernet is a `SharedSupernet`, or the run is refused in one line."""
    if space in ("rnn", "sequence", "decoder"):
        pytest.skip("their data are no images with classes")
    run = Run.start(configured(space), tmp_path, resume=False)
    if space in ("elastic", "vit", "nasbench101"):
        run.begin()
        assert isinstance(run.problem.supernet(), SharedSupernet)
    else:
        with pytest.raises(InputError, match=r"train.inherit.*elastic, vit or nasbench101"):
            run.begin()


@pytest.mark.parametrize(
    "setting,key,expected",
    [
        ("search.proxy={width_multiplier=0.5}", "train.inherit", "no search.proxy"),
        ("search.evaluator='training'", "search.sandwich", "evaluator = supernet"),
        ("search.strategy='darts'", "search.shrinking", "single architectures"),
        ("space.kernels=[3]", "search.shrinking", "with choices"),
        ("search.sandwich=0", "search", "sandwich"),
        ("search.warmup=0.1", "search", "as long as shrinking"),
        ("train.inherit=false", "train", "epochs = 0 needs inherit"),
        ("data.name='generated-ratings'", "search.distillation", "a task of classes"),
        ("search.cuda_graph=true", "search.cuda_graph", "device = cuda"),
    ],
)
def test_settings_that_do_not_go_together(setting, key, expected, tmp_path) -> None:
    more = ["search.shrinking=0.3", "train.epochs=0", setting]
    if setting.startswith("space"):
        more += ["space.expansions=[3]", "space.least_layers=2"]
    if setting.startswith("data"):
        more += ["search.shrinking=0.0", "space.resolutions=[]"]
    with pytest.raises(InputError, match=f"{key}.*{expected}"):
        Run.start(configured("elastic", *more), tmp_path, resume=False).begin()
    assert not (tmp_path / "config.toml").exists()
