"""Adapter files from anybody: whatever is in them, they load, or are refused in one line."""

import contextlib
import json
import math
import struct

import pytest
import safetensors.torch
import torch
from command import run
from fuzzing import ANYTHING, cases
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from tiny_models import build_tiny_sam

from samtune.adapter import Adapter, AdapterInfo, Base, read_info
from samtune.errors import AdapterError
from samtune.persam import Persam, PersamF

SAM = build_tiny_sam()


@pytest.fixture(scope="module", params=[Persam, PersamF], ids=["persam", "persam-f"])
def whole(request, tmp_path_factory):
    """The bytes of an adapter; these methods' are small, so that there is time for many."""
    method = "persam" if request.param is Persam else "persam-f"
    path = tmp_path_factory.mktemp("adapter") / "a.safetensors"
    info = AdapterInfo(
        method,
        Base.of(SAM, "tiny"),
        settings={"without": ["cascade"], "seed": 0},
        data={"train_images": 1, "train_objects": 2, "val_images": 0, "val_objects": 0},
        scores={"base_iou": 0.5, "adapter_iou": 0.6},
    )
    Adapter(info, request.param.blank({"without": ["cascade"]}, ())).save(path)
    return path.read_bytes()


def parts(content):
    """An adapter's tensors, and what it says about itself."""
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    return safetensors.torch.load(content), json.loads(header["__metadata__"]["samtune"])


def loads_or_is_refused(path):
    """Anything but an AdapterError of one line goes on, and fails the test."""
    for read in (
        lambda: Adapter.load(path, SAM),
        lambda: Adapter.load(path),
        lambda: read_info(path),
    ):
        with contextlib.suppress(AdapterError):
            read()
    result = run("info", path)  # a traceback would go on here as well
    assert result.exit_code in (0, 1)


def write(path, tensors, description):
    text = description if isinstance(description, str) else json.dumps(description)
    safetensors.torch.save_file(tensors, path, {"samtune": text})
    return path


@cases(25)
@given(data=st.data())
def test_flipped_bytes(whole, tmp_path, data):
    (length,) = struct.unpack("<Q", whole[:8])
    changed = bytearray(whole)
    # Most of them in the header: numbers may be any number.
    places = st.integers(0, 7 + length) | st.integers(0, len(whole) - 1)
    for place in data.draw(st.lists(places, min_size=1, max_size=4)):
        changed[place] = data.draw(st.integers(0, 255))
    (tmp_path / "a.safetensors").write_bytes(changed)
    loads_or_is_refused(tmp_path / "a.safetensors")


@cases(25)
@given(data=st.data())
def test_cut_files_and_wrong_lengths_of_the_header(whole, tmp_path, data):
    length = data.draw(st.integers(0, 2**64 - 1) | st.integers(0, len(whole)))
    end = data.draw(st.integers(0, len(whole)))
    path = tmp_path / "a.safetensors"
    path.write_bytes(whole[:end])
    loads_or_is_refused(path)
    path.write_bytes(struct.pack("<Q", length) + whole[8:])
    loads_or_is_refused(path)


@cases(25)
@given(data=st.data())
def test_descriptions_with_anything_anywhere(whole, tmp_path, data):
    tensors, description = parts(whole)
    place = description
    key = data.draw(st.sampled_from(sorted(description)))
    while isinstance(place[key], dict) and place[key] and data.draw(st.booleans()):
        place = place[key]
        key = data.draw(st.sampled_from(sorted(place)))
    place[key] = data.draw(ANYTHING)
    loads_or_is_refused(write(tmp_path / "a.safetensors", tensors, description))


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"format_version": Infinity}', '{"format_version": 1e999}', "\ud7ff"]
)
def test_descriptions_that_json_readers_stumble_over(whole, tmp_path, text):
    path = write(tmp_path / "a.safetensors", parts(whole)[0], text)
    with pytest.raises(AdapterError):
        read_info(path)
    loads_or_is_refused(path)


@cases(25)
@given(data=st.data())
def test_tensors_of_other_shapes_kinds_and_values_and_too_many(whole, tmp_path, data):
    tensors, description = parts(whole)
    name = data.draw(st.sampled_from(sorted(tensors)) | st.text("ab.", max_size=9))
    shape = data.draw(st.lists(st.integers(0, 5), max_size=4))
    if name in tensors and data.draw(st.booleans()):
        shape = tensors[name].shape
    kinds = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn]
    kinds += [torch.int8, torch.int64, torch.bool, torch.complex64]
    value = data.draw(st.sampled_from([0.0, 1.0, math.nan, math.inf, 3e38]))
    kind = data.draw(st.sampled_from(kinds))
    is_number = kind.is_floating_point or kind.is_complex
    full = torch.full(shape, value if is_number else 1.0, dtype=torch.float64)
    tensors[name] = full.to(kind)
    path = write(tmp_path / "a.safetensors", tensors, description)
    loads_or_is_refused(path)
    try:
        learned = Adapter.load(path, SAM).learned
    except AdapterError:
        return
    for tensor in learned.state_dict().values():
        assert tensor.dtype == torch.float32
        assert torch.isfinite(tensor).all()
    with safe_open(path, framework="pt") as file:  # what does not belong is left out
        assert set(learned.state_dict()) <= set(file.keys())
