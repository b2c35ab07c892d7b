"""MobileSAM's image encoder; test_onnx_weights.py compares the real one with ONNX Runtime."""

import itertools
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from samtune.tiny_vit import TinyViT, distance_indices
from samtune.weights import fold_batch_norms

OFFICIAL_SHAPES = json.loads((Path(__file__).parent / "data/mobile_sam_keys.json").read_text())


@pytest.fixture
def tiny_vit():
    """The real architecture with a few channels, and random numbers in every parameter."""
    torch.manual_seed(0)
    model = TinyViT(
        embed_dims=(4, 8, 8, 12),
        depths=(2, 1, 2, 1),
        num_heads=(2, 2, 3),
        window_sizes=(3, 4, 3),  # neither divides a grid of 16 and 8 cells evenly
        out_dim=16,
    ).eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:  # strong enough that the image, not the biases, decides
            nn.init.normal_(parameter, std=2 / parameter[0].numel() ** 0.5)
        else:
            nn.init.normal_(parameter, mean=float(name.endswith("norm.weight")), std=0.3)
    return model.requires_grad_(False)


@pytest.fixture
def images():
    return torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(1))


def test_parameters_are_exactly_the_official_ones_with_folded_batch_norms():
    # In the official file a batch norm's shift becomes its convolution's bias; the classifier's
    # head is never used by SAM.
    expected = {
        name.removeprefix("image_encoder.").replace(".bn.bias", ".c.bias"): tuple(shape)
        for name, shape in OFFICIAL_SHAPES.items()
        if name.startswith("image_encoder.")
        and (".bn." not in name or name.endswith(".bn.bias"))
        and ".head." not in name
        and ".norm_head." not in name
    }
    with torch.device("meta"):  # shapes alone, no memory
        state = TinyViT().state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == expected


def test_official_file_folded_loads_strictly():
    official = {name: torch.zeros(shape) for name, shape in OFFICIAL_SHAPES.items()}
    folded = fold_batch_norms(official)
    state = {
        name.removeprefix("image_encoder."): tensor
        for name, tensor in folded.items()
        if name.startswith("image_encoder.")
    }
    TinyViT().load_state_dict(state)  # raises on any missing or unexpected name


def test_embedding_has_one_cell_for_16_pixels(tiny_vit, images):
    assert tiny_vit(images).shape == (2, 16, 8, 8)


def test_an_image_is_encoded_the_same_alone_and_in_a_batch(tiny_vit, images):
    alone = torch.cat([tiny_vit(image[None]) for image in images])
    torch.testing.assert_close(tiny_vit(images), alone, rtol=1e-4, atol=1e-4)
    assert (alone[0] - alone[1]).abs().mean() > 0.1  # two images, two embeddings


def test_encoding_leaves_the_input_as_it_was(tiny_vit, images):
    # GELU works in place inside: a channels-last input is not copied on the way in.
    given = images.contiguous(memory_format=torch.channels_last)
    before = given.clone()
    tiny_vit(given)
    assert torch.equal(given, before)


def test_folding_changes_nothing_but_rounding(tiny_vit, images):
    # The oracle: the same network with torch's own batch norms, run in eval mode.
    unfolded = _with_batch_norms(tiny_vit)
    official = {f"image_encoder.{name}": v for name, v in unfolded.state_dict().items()}
    expected = unfolded(images)
    folded = fold_batch_norms(official)
    tiny_vit.load_state_dict(
        {name.removeprefix("image_encoder."): tensor for name, tensor in folded.items()}
    )
    torch.testing.assert_close(tiny_vit(images), expected, rtol=1e-4, atol=1e-4)


def _with_batch_norms(folded):
    """A copy of the network with a convolution and a random batch norm in each `….c`'s place."""

    class Unfolded(nn.Module):
        def __init__(self, conv):
            super().__init__()
            self.c = nn.Conv2d(
                conv.in_channels,
                conv.out_channels,
                conv.kernel_size,
                conv.stride,
                conv.padding,
                groups=conv.groups,
                bias=False,
            )
            self.bn = nn.BatchNorm2d(conv.out_channels)
            nn.init.normal_(self.bn.weight, mean=1.0, std=0.3)
            nn.init.normal_(self.bn.bias)
            nn.init.normal_(self.bn.running_mean)
            nn.init.uniform_(self.bn.running_var, 0.5, 2.0)

        def forward(self, features):
            return self.bn(self.c(features))

    class UnfoldedMBConv(nn.Module):
        def __init__(self, block):
            super().__init__()
            self.conv1, self.conv2, self.conv3 = (
                Unfolded(conv.c) for conv in (block.conv1, block.conv2, block.conv3)
            )

        def forward(self, features):
            wide = F.gelu(self.conv2(F.gelu(self.conv1(features))))
            return F.gelu(features + self.conv3(wide))

    torch.manual_seed(2)
    model = TinyViT((4, 8, 8, 12), (2, 1, 2, 1), (2, 2, 3), (3, 4, 3), out_dim=16)
    model.load_state_dict(folded.state_dict())
    for name, module in list(model.named_modules()):
        parent = model.get_submodule(name.rpartition(".")[0])
        child = name.rpartition(".")[2]
        if name.startswith("layers.0.blocks.") and name.count(".") == 3:
            setattr(parent, child, UnfoldedMBConv(module))
        elif type(module).__name__ == "_FoldedConv" and not name.startswith("layers.0.blocks."):
            setattr(parent, child, Unfolded(module.c))
    return model.eval().requires_grad_(False)


def test_window_attention_is_softmax_over_each_windows_cells(tiny_vit):
    # The formula in loops, on a grid of 5 x 7 cells whose windows of 4 stick out on two sides.
    block = tiny_vit.layers[2].blocks[0]
    attn = block.attn
    cells = torch.randn(1, 5, 7, 8, generator=torch.Generator().manual_seed(3))
    filled = torch.zeros(8, 8, 8)
    filled[:5, :7] = cells[0]
    expected = torch.zeros(8, 8, 8)
    for top, left in itertools.product((0, 4), (0, 4)):
        window = [(top + y, left + x) for y, x in itertools.product(range(4), range(4))]
        tokens = attn.norm(torch.stack([filled[y, x] for y, x in window]))
        heads = attn.qkv(tokens).view(16, 2, 12)  # each head's query, key and value in turn
        for i, (y, x) in enumerate(window):
            outputs = []
            for head in range(2):
                query = heads[i, head, :4]
                scores = torch.stack([query @ heads[j, head, 4:8] / 2 for j in range(16)])
                biases = [abs(y - v) * 4 + abs(x - u) for v, u in window]
                weights = (scores + attn.attention_biases[head, biases]).softmax(0)
                outputs.append(weights @ heads[:, head, 8:])
            expected[y, x] = attn.proj(torch.cat(outputs))
    torch.testing.assert_close(block._attend(cells)[0], expected[:5, :7])


@pytest.mark.parametrize("window_size", [7, 14])
def test_distances_are_numbered_in_the_order_of_the_official_code(window_size):
    # The official code numbers a distance when it first meets it, going through all pairs.
    cells = list(itertools.product(range(window_size), repeat=2))
    numbers: dict[tuple[int, int], int] = {}
    expected = [
        [numbers.setdefault((abs(y - v), abs(x - u)), len(numbers)) for v, u in cells]
        for y, x in cells
    ]
    assert distance_indices(window_size).tolist() == expected
