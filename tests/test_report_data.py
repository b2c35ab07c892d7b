"""How many of the evaluated images an adapter learned from."""

from dataclasses import replace

import pytest
from tiny_models import build_adapter

from samtune.dataset import load_dataset, split
from samtune.report_data import images_seen


@pytest.fixture(scope="module")
def dataset(toy_folder):
    return load_dataset(toy_folder)


@pytest.fixture
def learned_from(tiny_sam):
    """The description of an adapter that learned from some images."""

    def info(train, **settings):
        about = build_adapter(tiny_sam, refines=False).info
        settings = {"seed": 3, "val_fraction": 0.25, **settings}
        return replace(about, settings=settings, data={"sha256": train.fingerprint()})

    return info


def test_the_very_files_of_the_training_were_all_seen(dataset, learned_from):
    assert images_seen(learned_from(dataset), dataset) == 8


def test_of_the_folder_that_fit_parted_the_training_images_were_seen(dataset, learned_from):
    train, held_out = split(dataset, 0.25, seed=3)
    assert images_seen(learned_from(train), dataset) == 6
    assert images_seen(learned_from(train), held_out) == 0
    assert images_seen(learned_from(train), train) == 6
    assert images_seen(learned_from(train, seed=4), dataset) == 0  # another part of it


@pytest.mark.parametrize(
    "settings", [{"val_fraction": None}, {"val_fraction": 7.5}, {"seed": "x"}, {"seed": -1}]
)
def test_other_methods_and_odd_settings_tell_nothing(dataset, learned_from, settings):
    train, _ = split(dataset, 0.25, seed=3)
    assert images_seen(learned_from(train, **settings), dataset) == 0


def test_one_image_cannot_have_been_parted(dataset, learned_from):
    assert images_seen(learned_from(dataset), dataset.subset([0])) == 0
