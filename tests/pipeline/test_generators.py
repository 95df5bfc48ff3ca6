"""What does not go together with generators of images is refused before anything long begins."""

from __future__ import annotations

import pytest

from hwnas.config import load_config
from hwnas.errors import InputError
from hwnas.pipeline.compatibility import check_supernet
from hwnas.pipeline.configuration import load_config as completed
from hwnas.pipeline.problem import Problem

LIMITS = ["data.train_limit=40", "data.test_limit=20"]


def problem(*settings: str) -> Problem:
    return Problem(load_config("decoder_slice", [*LIMITS, *settings]), "decoder_slice.toml")


@pytest.mark.parametrize(
    "setting, key",
    [
        ("search.penalties={jacobian=0.1}", "search.penalties"),
        ("train.teacher='model.onnx'", "train.teacher"),
        ("search.distillation=0.5", "search.distillation"),
    ],
)
def test_settings_that_need_a_network_s_own_outputs_are_refused(setting, key) -> None:
    more = ["search.sandwich=2"] if "distillation" in setting else []
    found = problem(setting, *more)
    with pytest.raises(InputError, match=rf"decoder_slice.toml: {key}.*does not fit") as caught:
        check_supernet(found.config, found.supernet(), found.task, found.where)
    assert "\n" not in str(caught.value)


def test_a_discriminator_for_other_tasks_is_refused() -> None:
    settings = ["train.adversarial_weight=0.1", "data.train_limit=40"]
    found = Problem(load_config("mbconv_slice", settings), "mbconv_slice.toml")
    with pytest.raises(InputError, match=r"train.adversarial_weight.*expected 0, without latents"):
        check_supernet(found.config, found.supernet(), found.task, found.where)


def test_other_spaces_than_decoders_are_refused() -> None:
    with pytest.raises(InputError, match="mbconv cannot have the head that the task needs"):
        _ = problem("space={name='mbconv'}").space


def test_sides_that_cannot_be_doubled_so_often_are_refused() -> None:
    with pytest.raises(InputError, match=r"28 x 28.*3 times.*multiples of 8"):
        _ = problem("space.doublings=3").space


def test_a_file_with_data_and_latents_alone_is_a_configuration(tmp_path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[data]\nname = "fashion-mnist-slice"\nlatents = 4\ntrain_limit = 80\n')
    config = completed(path)
    assert config.space.name == "decoder"
    assert any(note.startswith("space: name decoder") for note in config.notes)
