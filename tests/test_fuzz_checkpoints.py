"""Checkpoints from anybody: weights, or refused in one line; nothing in them is ever run."""

import io
import os
import pickle
import zipfile

import pytest
import safetensors.torch
import torch
from fuzzing import answer_or_refusal, cases, damaged
from hypothesis import given
from hypothesis import strategies as st
from test_checkpoints import tiny_state

from samtune.errors import CheckpointError
from samtune.sam import build_sam, load_sam
from samtune.weights import Checkpoint, read_checkpoint

FORMS = ("zip", "old", "safetensors")


def saved(state, form):
    if form == "safetensors":
        return safetensors.torch.save(state)
    file = io.BytesIO()
    torch.save(state, file, _use_new_zipfile_serialization=form == "zip")
    return file.getvalue()


WHOLE = {form: saved(tiny_state("mobile_sam"), form) for form in FORMS}


def is_read_or_refused(path):
    found = answer_or_refusal(lambda: read_checkpoint(path), CheckpointError)
    for name, tensor in found.state.items() if found else ():
        assert isinstance(name, str)
        assert tensor.dtype == torch.float32
        assert tensor.layout == torch.strided
        assert tensor.numel() * 4 <= 2 * path.stat().st_size
    return found


@pytest.mark.parametrize("form", FORMS)
def test_the_corpus_can_be_read(form, tmp_path):
    path = tmp_path / "a.pt"
    path.write_bytes(WHOLE[form])
    assert is_read_or_refused(path).kind == "mobile_sam"


@pytest.mark.parametrize("form", FORMS)
@cases(60)
@given(data=st.data())
def test_damaged_files(form, tmp_path, data):
    path = tmp_path / "a.pt"
    path.write_bytes(data.draw(damaged(WHOLE[form], head=3000)))
    is_read_or_refused(path)


TENSORS = st.sampled_from(
    [
        torch.zeros(3),
        torch.zeros(32, 3, 3, 3).half(),
        torch.zeros(2, 2, dtype=torch.int64),
        torch.zeros(2, dtype=torch.bool),
        torch.zeros(2, dtype=torch.complex64),
        torch.zeros(32, dtype=torch.float8_e4m3fn),
        torch.zeros(()),
        torch.zeros(0, 4),
        torch.full((32,), float("nan")),
        torch.eye(3).to_sparse(),
        torch.zeros(3, device="meta"),
        torch.nn.Parameter(torch.zeros(32)),
    ]
)
VALUES = TENSORS | st.none() | st.integers() | st.text(max_size=3) | st.lists(TENSORS, max_size=2)
NAMES = st.sampled_from(
    [
        *tiny_state("mobile_sam"),
        "image_encoder.pos_embed",
        "image_encoder.x.bn.weight",
        "image_encoder.bn.weight",
        "mask_decoder.x",
        "\ud800",
        "",
    ]
)


@cases(150)
@given(
    changes=st.dictionaries(NAMES | st.integers(), VALUES, min_size=1, max_size=3),
    form=st.sampled_from(["zip", "old"]),
)
def test_any_names_and_values(changes, form, tmp_path):
    path = tmp_path / "a.pt"
    path.write_bytes(saved(tiny_state("mobile_sam") | changes, form))
    is_read_or_refused(path)


class Call:
    """Pickled, this is a call of anything with any arguments."""

    def __init__(self, function, *words):
        self.function, self.words = function, words

    def __reduce__(self):
        return self.function, self.words


@cases(80)
@given(
    call=st.sampled_from(["mkdir", "system", "eval", "exec", "open", "getattr", "rebuild"]),
    place=st.sampled_from(["value", "key", "whole", "in a list", "state of a tensor"]),
    form=st.sampled_from(["zip", "old", "bare"]),
    protocol=st.integers(0, 5),
)
def test_no_code_in_a_pickle_ever_runs(call, place, form, protocol, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evil")
    trace, path = folder / "it ran", folder / "a.pt"
    evil = {
        "mkdir": Call(os.mkdir, str(trace)),
        "system": Call(os.system, f"mkdir '{trace}'"),
        "eval": Call(eval, f"__import__('os').mkdir({str(trace)!r})"),
        "exec": Call(exec, f"import os; os.mkdir({str(trace)!r})"),
        "open": Call(open, str(trace), "w"),
        "getattr": Call(getattr, Call(__import__, "os"), "system"),
        "rebuild": Call(torch.load, str(trace)),
    }[call]
    content = {
        "value": tiny_state("mobile_sam") | {"mask_decoder.x": evil},
        "key": {evil: torch.zeros(1)},
        "whole": evil,
        "in a list": {"a": [{"b": (evil,)}]},
        "state of a tensor": {"a": Call(torch._utils._rebuild_tensor_v2, evil, 0, (1,), (1,))},
    }[place]
    if form == "bare":
        path.write_bytes(pickle.dumps(content, min(protocol, pickle.HIGHEST_PROTOCOL)))
    else:
        path.write_bytes(saved(content, form))
    with pytest.raises(CheckpointError):
        read_checkpoint(path)
    assert os.listdir(folder) == ["a.pt"]  # noqa: PTH208, names are enough


@pytest.mark.parametrize("form", ["zip", "old"])
def test_a_few_numbers_spread_over_a_huge_tensor_are_not_written_out(form, tmp_path):
    # Strides of 0: terabytes of one number. In half precision they would become float32.
    state = tiny_state("mobile_sam")
    state["mask_decoder.x"] = torch.zeros(1, dtype=torch.float16).expand(1_000_000, 1_000_000)
    path = tmp_path / "a.pt"
    path.write_bytes(saved(state, form))
    with pytest.raises(CheckpointError, match=r"mask_decoder\.x"):
        read_checkpoint(path)


def test_a_packed_archive_is_refused_before_it_is_unpacked(tmp_path):
    # PyTorch stores, so that a file maps into memory; packed zeros could be a thousand times more.
    stored, packed = io.BytesIO(WHOLE["zip"]), tmp_path / "a.pt"
    with zipfile.ZipFile(stored) as old, zipfile.ZipFile(packed, "w") as new:
        for one in old.infolist():
            new.writestr(one.filename, old.read(one), zipfile.ZIP_DEFLATED)
        new.writestr("archive/data/99", bytes(100_000_000), zipfile.ZIP_DEFLATED)
    assert packed.stat().st_size < 1e6
    with pytest.raises(CheckpointError, match="compressed"):
        read_checkpoint(packed)


@cases(10)
@given(changes=st.dictionaries(NAMES, TENSORS, max_size=3), data=st.data())
def test_what_is_read_loads_as_a_model_or_is_refused(changes, data):
    kept = {
        name: tensor
        for name, tensor in MOBILE_SAM.items()
        if data.draw(st.integers(0, 200)) or not changes
    }
    floats = {name: one for name, one in changes.items() if one.is_floating_point()}
    checkpoint = Checkpoint(os.curdir, "mobile_sam", kept | floats)
    answer_or_refusal(lambda: load_sam(checkpoint), CheckpointError)


def _random_mobile_sam():
    sam = build_sam("mobile_sam")
    parts = {
        "image_encoder.": sam.image_encoder,
        "prompt_encoder.": sam.prompt_encoder,
        "mask_decoder.": sam.decoder.layers,
    }
    return {
        p + name: one for p, module in parts.items() for name, one in module.state_dict().items()
    }


MOBILE_SAM = _random_mobile_sam()
