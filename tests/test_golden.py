"""Results do not drift: adapters of released formats load for ever, and answer as they did."""

import gzip
import re

import numpy as np
import pytest
from golden import FOLDER, adapter_file, answer_file, answers, golden_sam

from samtune.adapter import FORMAT_VERSION, METHODS, Adapter, read_info

RELEASED = sorted(
    (found[1], int(found[2]))
    for path in FOLDER.glob("*.gz")
    if (found := re.fullmatch(r"(.+)\.v(\d+)\.safetensors\.gz", path.name))
)


@pytest.fixture(scope="module")
def sam():
    return golden_sam()


@pytest.fixture
def golden_adapter(tmp_path):
    def unpack(method, version):
        path = tmp_path / f"{method}.safetensors"
        path.write_bytes(gzip.decompress(adapter_file(method, version).read_bytes()))
        return path

    return unpack


def test_every_method_has_a_golden_adapter_of_the_format_that_is_written_now():
    assert {method for method, version in RELEASED if version == FORMAT_VERSION} == set(METHODS)


@pytest.mark.parametrize(("method", "version"), RELEASED)
def test_golden_adapters_answer_as_they_did(method, version, sam, golden_adapter):
    path = golden_adapter(method, version)
    assert read_info(path).method == method
    found = answers(Adapter.load(path, sam), sam)  # which compares the model's fingerprint
    with np.load(answer_file(method, version)) as expected:
        assert set(found) == set(expected)
        assert len(found) >= 9
        for name in expected:
            if name.endswith("mask"):
                differing = np.unpackbits(found[name] ^ expected[name]).sum()
                assert differing <= 1, name  # a pixel whose logit is 0 but for rounding
            else:  # logits, scores, and contours in pixels
                np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=1e-4)


@pytest.mark.parametrize(("method", "version"), RELEASED)
def test_golden_answers_tell_methods_and_prompts_apart(method, version):
    """An answer that came out whatever the adapter holds would hold nothing."""
    with np.load(answer_file(method, version)) as answers:
        logits = {name: answers[name] for name in answers if name.endswith("logits")}
        pixels = [np.unpackbits(answers[name]).sum() for name in answers if name.endswith("mask")]
    assert 0 < min(pixels) <= max(pixels) < 90 * 120
    for other, _ in RELEASED:
        if other != method:
            with np.load(answer_file(other, version)) as others:
                alike = [np.abs(others[name] - logits[name]).max() for name in PROMPTED]
            assert min(alike) > 0.1
    first, *rest = (logits[name] for name in PROMPTED)
    assert min(np.abs(first - one).max() for one in rest) > 0.1


PROMPTED = ("point logits", "points logits", "box logits")


def test_golden_files_stay_small():
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 400_000
