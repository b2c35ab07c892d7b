"""The adapter file: what goes in comes out, old files keep loading, and wrong ones are refused."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from broken_data import without_permission
from safetensors import safe_open
from tiny_models import build_adapter, build_tiny_sam

from samtune import __version__
from samtune.adapter import Adapter, read_info
from samtune.errors import AdapterError, OutputError
from samtune.sam import Sam

# What samtune 0.1.0 wrote of itself, and its tensors' names and shapes.
GOLDEN = json.loads((Path(__file__).parent / "data/adapter_v1.json").read_text())


@pytest.fixture(scope="module")
def adapter(tiny_sam):
    return build_adapter(tiny_sam)


@pytest.fixture
def path(adapter, tmp_path):
    adapter.save(tmp_path / "plates.safetensors")
    return tmp_path / "plates.safetensors"


def modules(adapter):
    learned = adapter.learned
    parts = "plm", "dense_prompt", "selector", "refiner"
    return {part: getattr(learned, part) for part in parts}


def read(path):
    """The tensors of a file, and what it says about itself."""
    with safe_open(path, framework="pt") as file:
        return safetensors.torch.load_file(path), json.loads(file.metadata()["samtune"])


def write(path, tensors, description):
    safetensors.torch.save_file(tensors, path, {"samtune": json.dumps(description)})


def refused(path, sam=None):
    """The message with which a file is refused; it is one line and names the file."""
    with pytest.raises(AdapterError) as caught:
        Adapter.load(path, sam)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


# --------------------------------------------------------------------------- round trip


def test_what_was_saved_is_loaded_bit_for_bit(adapter, path, tiny_sam):
    loaded = Adapter.load(path, tiny_sam)
    assert loaded.info == adapter.info
    for part, module in modules(loaded).items():
        expected = modules(adapter)[part].state_dict()
        assert module.state_dict().keys() == expected.keys()
        assert all(torch.equal(module.state_dict()[name], expected[name]) for name in expected)


def test_an_adapter_without_pmm_is_loaded_without_one(tiny_sam, tmp_path):
    build_adapter(tiny_sam, refines=False).save(tmp_path / "a.safetensors")
    assert Adapter.load(tmp_path / "a.safetensors", tiny_sam).learned.refiner is None


def test_a_loaded_adapter_is_ready_to_use_and_frozen(path):
    for module in modules(Adapter.load(path)).values():
        assert not module.training
        assert not any(parameter.requires_grad for parameter in module.parameters())


def test_loading_leaves_the_callers_random_numbers_alone(path):
    before = torch.random.get_rng_state()
    Adapter.load(path)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_same_adapter_is_the_same_file(adapter, path, tmp_path):
    adapter.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_an_adapter_tells_about_itself_without_a_model(adapter, path):
    assert read_info(path) == adapter.info
    assert read_info(path).samtune_version == __version__


def test_its_parameters_are_those_that_segmenting_uses(adapter):
    assert (
        adapter.learned.parameters_in_use() == 1_578_752 + 177_280 + 2_052
    )  # the PLM, the dense prompt and the selector, not the refiner


def test_the_file_is_readable_as_json_beside_tensors(path):
    # What other tools see: one prefix a module, and text that explains itself.
    tensors, description = read(path)
    parts = {"plm", "dense_prompt", "selector", "refiner"}
    assert {name.split(".")[0] for name in tensors} == parts
    assert description["format_version"] == 1
    assert description["base"]["checkpoint"] == "tiny.safetensors"


@pytest.mark.parametrize("fault", ["folder is a file", "no permission"])
def test_place_that_cannot_be_written_is_named_and_left_as_it_was(adapter, tmp_path, fault):
    folder = tmp_path / "out"
    if fault == "folder is a file":
        folder.write_text("a note")
        with pytest.raises(OutputError, match=r"out.a\.safetensors cannot be written"):
            adapter.save(folder / "a.safetensors")
        assert folder.read_text() == "a note"
    else:
        folder.mkdir()
        with (
            without_permission(folder),
            pytest.raises(OutputError, match=r"a\.safetensors cannot be written"),
        ):
            adapter.save(folder / "a.safetensors")
        assert list(folder.iterdir()) == []


# --------------------------------------------------------------------------- old versions


def golden_file(path):
    """A file of format 1, but for the 10 MB of numbers, which do not matter here."""
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.randn(shape, generator=generator) for name, shape in GOLDEN["tensors"].items()
    }
    write(path, tensors, GOLDEN["description"])
    return tensors


def test_files_of_format_1_keep_loading(tmp_path):
    tensors = golden_file(tmp_path / "v1.safetensors")
    loaded = Adapter.load(tmp_path / "v1.safetensors")
    found = {
        f"{part}.{name}": tensor
        for part, module in modules(loaded).items()
        if module is not None
        for name, tensor in module.state_dict().items()
    }
    # Its Point Matching Module is not used any more: it answers prompts, and does not refine.
    assert found.keys() == {name for name in tensors if not name.startswith("pmm.")}
    assert all(torch.equal(found[name], tensors[name]) for name in found)
    assert loaded.learned.refiner is None
    info = loaded.info
    assert (info.method, info.refine_helps, info.samtune_version) == ("plm", True, "0.1.0")
    assert info.base.checkpoint == "mobile_sam"
    assert info.base.encoder == "mobile_sam"
    assert info.settings["seed"] == 0
    assert info.scores["adapter_iou"] == 0.75


# --------------------------------------------------------------------------- another base


def test_adapter_of_another_decoder_is_refused_with_both_names(path):
    other = build_tiny_sam()
    other.decoder.layers.iou_token.weight.data[0, 0] += 1e-6
    message = refused(path, other)
    assert "tiny.safetensors" in message
    assert read_info(path).base.decoder_fingerprint[:12] in message
    assert other.decoder_fingerprint[:12] in message
    assert "--checkpoint tiny.safetensors" in message


def test_adapter_of_another_image_encoder_is_refused_though_the_decoder_is_the_same(path, tiny_sam):
    # MobileSAM's decoder is SAM's own: only the kind of encoder tells them apart.
    parts = tiny_sam.image_encoder, tiny_sam.prompt_encoder, tiny_sam.decoder.layers
    other = Sam("vit_h", *parts, image_size=tiny_sam.image_size)
    message = refused(path, other)
    assert "mobile_sam" in message
    assert "vit_h" in message


def test_of_the_image_encoder_only_its_kind_counts(path):
    # MobileSAM's official file and its npm package, norms folded or not, differ in last bits.
    other = build_tiny_sam()
    other.image_encoder.patches.weight.data *= 1 + 1e-7
    assert Adapter.load(path, other).info == read_info(path)


# --------------------------------------------------------------------------- damaged files


def test_newer_format_is_refused_with_the_version_that_wrote_it(path):
    tensors, _ = read(path)
    # A newer format may look like anything else.
    write(path, tensors, {"format_version": 2, "samtune_version": "9.1.0", "new": [1]})
    message = refused(path)
    assert "format 2" in message
    assert "samtune 9.1.0" in message
    assert "upgrade samtune" in message


@pytest.mark.parametrize(
    "name", ["plm.mlp.0.weight", "selector.from_iou_token.bias", "refiner.along.bias"]
)
def test_missing_tensor_is_named(path, name):
    tensors, description = read(path)
    del tensors[name]
    write(path, tensors, description)
    assert f"lacks the tensor {name}" in refused(path)


@pytest.mark.parametrize("name", ["plm.q_proj.weight", "selector.from_mask_tokens"])
def test_tensor_of_another_shape_is_named_with_both_shapes(path, name):
    tensors, description = read(path)
    expected = tuple(tensors[name].shape)
    tensors[name] = tensors[name][:, :-1].contiguous()
    write(path, tensors, description)
    message = refused(path)
    assert name in message
    assert str(expected) in message
    assert str(tuple(tensors[name].shape)) in message


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_tensor_with_nan_or_infinity_is_named(path, value):
    tensors, description = read(path)
    tensors["plm.out_proj.bias"][7] = value
    write(path, tensors, description)
    assert "plm.out_proj.bias with NaN or infinity" in refused(path)


class _Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    "content",
    [b"", b"a note\n", b"\x00" * 40, b"\xff" * 40, b"PK\x03\x04" + b"\0" * 40],
    ids=["empty", "text", "zeros", "a header too long", "a zip"],
)
def test_file_of_another_kind_is_refused(tmp_path, content):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    assert "is not an adapter" in refused(path)


def test_pickle_is_refused_and_never_run(tmp_path):
    path, trace = tmp_path / "a.safetensors", tmp_path / "was_run"
    path.write_bytes(pickle.dumps(_Trap(trace)))
    refused(path)
    torch.save({"plm.mlp.0.weight": _Trap(trace)}, path)
    refused(path)
    assert not trace.exists()


def test_truncated_file_is_refused(path):
    path.write_bytes(path.read_bytes()[:-1000])
    assert "is not an adapter" in refused(path)


def test_pretrained_weights_are_refused_with_the_option_they_belong_to(tmp_path):
    path = tmp_path / "sam.safetensors"
    safetensors.torch.save_file({"mask_decoder.iou_token.weight": torch.zeros(1, 256)}, path)
    assert "pretrained weights go to --checkpoint" in refused(path)


def test_file_that_is_far_too_large_is_refused_unread(tmp_path):
    path = tmp_path / "sam_vit_h.pth"
    with path.open("wb") as file:
        file.truncate(3 * 2**30)  # no bytes on the disk, and 3 GiB if it were read
    message = refused(path)
    assert "3072 MB" in message
    assert "--checkpoint" in message


@pytest.mark.parametrize("place", ["missing.safetensors", "."])
def test_missing_file_and_folder_are_refused(tmp_path, place):
    refused(tmp_path / place)


@pytest.mark.parametrize(
    "change",
    [
        lambda description: description | {"base": "mobile_sam"},
        lambda description: description | {"format_version": "one"},
        lambda description: {k: v for k, v in description.items() if k != "base"},
        lambda description: {k: v for k, v in description.items() if k != "format_version"},
        lambda description: description | {"surprise": 1},
        lambda description: [description],
        lambda description: None,
    ],
    ids=[
        "a base that is text",
        "a version that is none",
        "no base",
        "no version",
        "more than it should",
        "a list",
        "null",
    ],
)
def test_description_that_was_tampered_with_is_refused(path, change):
    tensors, description = read(path)
    write(path, tensors, change(description))
    assert "does not describe itself" in refused(path)


def test_unknown_method_is_named(adapter, tmp_path):
    path = tmp_path / "a.safetensors"
    replace(adapter, info=replace(adapter.info, method="lora")).save(path)
    message = refused(path)
    assert "'lora'" in message
    assert "upgrade samtune" in message


def with_one_tensor_as(dtype, adapter, path):
    adapter.save(path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    tensors["plm.q_proj.bias"] = tensors["plm.q_proj.bias"].to(dtype)
    safetensors.torch.save_file(tensors, path, metadata)
    return path


@pytest.mark.parametrize(
    "dtype",
    [torch.complex64, torch.float8_e4m3fn, torch.float8_e5m2, torch.int8, torch.int64, torch.bool],
)
def test_anything_but_floating_point_of_16_bits_and_more_is_refused(
    adapter, tiny_sam, tmp_path, dtype
):
    path = with_one_tensor_as(dtype, adapter, tmp_path / "a.safetensors")
    with pytest.raises(AdapterError, match=f"bias as {str(dtype)[6:]} instead of float32"):
        Adapter.load(path, tiny_sam)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_loads_as_float32(adapter, tiny_sam, tmp_path, dtype):
    path = with_one_tensor_as(dtype, adapter, tmp_path / "a.safetensors")
    bias = Adapter.load(path, tiny_sam).learned.plm.q_proj.bias
    assert bias.dtype == torch.float32
    assert torch.equal(bias, adapter.learned.plm.q_proj.bias.to(dtype).float())
