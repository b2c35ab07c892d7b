"""Settings of fitting."""

import pytest

from samtune.config import FitConfig


@pytest.mark.parametrize(
    ("count", "seen"), [(40, 3000), (187, 3000), (300, 4800), (449, 6000), (7000, 7000)]
)
def test_many_objects_are_seen_more_often_but_not_without_end(count, seen):
    assert FitConfig().objects_to_see(count) == seen


def test_epochs_say_how_often_whatever_there_is():
    assert FitConfig(epochs=3).objects_to_see(40) == 120
    assert FitConfig(epochs=3).objects_to_see(7000) == 21_000
