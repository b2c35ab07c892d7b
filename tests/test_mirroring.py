"""Mirror images are learned from where objects would be seen often, unless one says otherwise."""

from dataclasses import replace

import pytest

from samtune.config import FitConfig
from samtune.dataset import load_dataset
from samtune.mirroring import decide_mirroring


@pytest.fixture(scope="module")
def objects(toy_folder):
    """Eight images of an object each."""
    return load_dataset(toy_folder)


@pytest.mark.parametrize(
    ("epochs", "mirrored"), [(None, True), (25, True), (24, False), (1, False)]
)
def test_objects_that_are_seen_so_often_are_seen_in_a_mirror_as_well(objects, epochs, mirrored):
    config = FitConfig(epochs=epochs)
    assert decide_mirroring(config, objects, None) == replace(config, mirror=mirrored)


def test_many_objects_are_not_encoded_twice(objects):
    most = FitConfig().objects // FitConfig().mirror_passes
    few, many = (
        replace(objects, objects=objects.objects[:1] * count) for count in (most, most + 1)
    )
    assert decide_mirroring(FitConfig(), few, objects).mirror
    assert not decide_mirroring(FitConfig(), many, objects).mirror


def test_mirror_images_that_are_held_out_are_not_learned_from(objects):
    assert not decide_mirroring(FitConfig(), objects, objects.in_a_mirror()).mirror


@pytest.mark.parametrize("mirror", [False, True])
def test_who_says_so_is_obeyed(objects, mirror):
    for config in (FitConfig(mirror=mirror), FitConfig(mirror=mirror, epochs=1)):
        assert decide_mirroring(config, objects, objects.in_a_mirror()) is config


def test_the_other_methods_take_images_as_they_are(objects):
    config = FitConfig(method="persam")
    assert decide_mirroring(config, objects, None) is config
