"""Settings of fitting."""

import ast
import json
from dataclasses import asdict, fields
from pathlib import Path

import pytest

import samtune.config
from samtune.config import FitConfig, VrpConfig, settings_in_words


@pytest.mark.parametrize(
    ("count", "seen"), [(40, 3000), (187, 3000), (300, 4800), (449, 6000), (7000, 7000)]
)
def test_many_objects_are_seen_more_often_but_not_without_end(count, seen):
    assert FitConfig().objects_to_see(count) == seen


def test_epochs_say_how_often_whatever_there_is():
    assert FitConfig(epochs=3).objects_to_see(40) == 120
    assert FitConfig(epochs=3).objects_to_see(7000) == 21_000


@pytest.mark.parametrize("settings", [FitConfig, VrpConfig])
def test_each_setting_is_read_by_something_that_knows_these_settings(settings):
    read = set()
    for path in Path(samtune.config.__file__).parent.glob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        named = any(isinstance(node, ast.Name) and node.id == settings.__name__ for node in nodes)
        if named or path.stem == "run":  # which takes the settings of any training
            read |= {
                node.attr
                for node in nodes
                if isinstance(node, ast.Attribute)
                and ast.unparse(node.value) in ("config", "self.config", "self")
            }
    assert {field.name for field in fields(settings)} - read == set()


@pytest.mark.parametrize("settings", [FitConfig(), VrpConfig()])
def test_settings_by_default_are_told_as_such_before_they_are_in_a_file_and_after(settings):
    method = {FitConfig: "plm", VrpConfig: "vrp"}[type(settings)]
    kept = {**asdict(settings), "method": method}
    for one in (kept, json.loads(json.dumps(kept))):
        assert settings_in_words({**one, "seed": 3}) == "seed 3; all others by default"
