"""The frozen decoder's shortcuts give segment-anything's own numbers."""

import copy
import weakref

import pytest
import torch
from decoding import Decoded, decode
from upstream import difference, modeling, sharpen

from samtune.decoder import FrozenDecoder
from samtune.image_cells import cell_by_cell
from samtune.two_way import two_way

HEIGHT, WIDTH, CHANNELS = 6, 9, 256  # cells; not square, so that exchanged axes show


@pytest.fixture(scope="module")
def upstream_decoder():
    """segment-anything's MaskDecoder as SAM has it, with random weights."""
    transformer = modeling().TwoWayTransformer(
        depth=2, embedding_dim=CHANNELS, mlp_dim=2048, num_heads=8
    )
    decoder = modeling().MaskDecoder(transformer_dim=CHANNELS, transformer=transformer)
    return sharpen(decoder).requires_grad_(False)


@pytest.fixture
def draw():
    """Random tensors, all different, the same in every run."""
    generator = torch.Generator().manual_seed(1)
    return lambda *shape: torch.randn(*shape, generator=generator)


def predict_masks(decoder, image_embedding, image_pe, sparse, dense):
    """Upstream's forward on one image: logits, IoU, and the image features it keeps to itself."""
    features = []
    handle = decoder.transformer.register_forward_hook(
        lambda module, given, result: features.append(result[1])
    )
    logits, iou_predictions = decoder.predict_masks(image_embedding, image_pe, sparse, dense)
    handle.remove()
    return logits, iou_predictions, features[0]


def assert_same(decoded, expected):
    logits, iou_predictions, features = expected
    assert difference(decoded.low_res_logits, logits) <= 1e-4
    assert difference(decoded.iou_predictions, iou_predictions) <= 1e-4
    assert difference(decoded.image_features, features) <= 1e-4


@pytest.mark.parametrize(("prompts", "tokens"), [(1, 1), (1, 2), (5, 3), (2, 30)])
def test_prompts_on_one_image_are_decoded_as_upstream(upstream_decoder, draw, prompts, tokens):
    image, pe = draw(1, CHANNELS, HEIGHT, WIDTH), draw(1, CHANNELS, HEIGHT, WIDTH)
    sparse, no_mask = draw(prompts, tokens, CHANNELS), draw(1, CHANNELS, 1, 1)
    decoded = decode(FrozenDecoder(upstream_decoder), image, pe, sparse, no_mask)
    assert decoded.low_res_logits.shape == (prompts, 4, 4 * HEIGHT, 4 * WIDTH)
    dense = no_mask.expand(prompts, -1, HEIGHT, WIDTH)
    assert_same(decoded, predict_masks(upstream_decoder, image, pe, sparse, dense))


def test_upscaled_features_and_the_masks_logit_are_upstreams_place_by_place(upstream_decoder, draw):
    image, pe = draw(1, CHANNELS, HEIGHT, WIDTH), draw(1, CHANNELS, HEIGHT, WIDTH)
    sparse, no_mask = draw(2, 3, CHANNELS), draw(1, CHANNELS, 1, 1)
    decoder = FrozenDecoder(upstream_decoder)
    tokens, cells = decoder.attend(image, pe, sparse, no_mask)
    mixing = draw(2, 4).softmax(dim=1)
    found = decoder.upscaled(tokens, cells, mixing, (HEIGHT, WIDTH))
    dense = no_mask.expand(2, -1, HEIGHT, WIDTH)
    logits, _, features = predict_masks(upstream_decoder, image, pe, sparse, dense)
    expected = upstream_decoder.output_upscaling(features.mT.unflatten(2, (HEIGHT, WIDTH)))
    assert difference(found[..., :-1], expected.flatten(2).mT) <= 1e-4
    mixed = (mixing[:, :, None, None] * logits).sum(dim=1)
    assert difference(found[..., -1], mixed.flatten(1)) <= 1e-4


def test_single_logits_are_those_of_upstream_s_masks(upstream_decoder, draw):
    image, pe = draw(1, CHANNELS, 5, 5), draw(1, CHANNELS, 5, 5)
    sparse, no_mask = draw(2, 3, CHANNELS), draw(1, CHANNELS, 1, 1)
    decoder = FrozenDecoder(upstream_decoder)
    tokens, cells = decoder.attend(image, pe, sparse, no_mask)
    mixing = draw(2, 4).softmax(dim=1)
    logits, _, _ = predict_masks(upstream_decoder, image, pe, sparse, no_mask.expand(2, -1, 5, 5))
    mixed = (mixing[:, :, None, None] * logits).sum(dim=1)  # (2, 20, 20)
    rows, columns = torch.meshgrid(torch.arange(20), torch.arange(20), indexing="ij")
    places = torch.stack([columns, rows], dim=2).flatten(0, 1).expand(2, -1, -1) + 0.3
    found = decoder.logits_at(tokens, cells, mixing, places)
    assert difference(found, mixed.flatten(1)) <= 1e-4
    outside = torch.tensor([[[-3.0, 2.5], [19.5, 40.0]]]).expand(2, -1, -1)
    nearest = torch.stack([mixed[:, 2, 0], mixed[:, 19, 19]], dim=1)
    assert difference(decoder.logits_at(tokens, cells, mixing, outside), nearest) <= 1e-4


@pytest.mark.parametrize(("prompts", "tokens"), [(1, 1), (1, 2), (5, 3)])
def test_prompts_on_a_prepared_image_are_decoded_as_upstream(
    upstream_decoder, draw, prompts, tokens
):
    image, pe = draw(1, CHANNELS, HEIGHT, WIDTH), draw(1, CHANNELS, HEIGHT, WIDTH)
    sparse, no_mask = draw(prompts, tokens, CHANNELS), draw(1, CHANNELS, 1, 1)
    decoder = FrozenDecoder(upstream_decoder)
    prepared = decoder.prepare(image, pe, no_mask)
    dense = no_mask.expand(prompts, -1, HEIGHT, WIDTH)
    expected = predict_masks(upstream_decoder, image, pe, sparse, dense)
    for _ in range(2):  # the prepared image stays as it is
        output_tokens, cells = decoder.attend_to(prepared, sparse)
        assert output_tokens.shape == (prompts, 5, CHANNELS)  # the IoU token and four masks'
        blocks = decoder.mask_blocks(output_tokens, cells)
        logits = decoder.assemble(blocks, (HEIGHT, WIDTH))
        assert_same(Decoded(logits, decoder.predict_iou(output_tokens), cells), expected)


def test_prompts_on_several_images_are_decoded_as_image_by_image(upstream_decoder, draw):
    # Two prompts an image: upstream, given several images, would pair each with every prompt.
    images, pe = draw(3, CHANNELS, HEIGHT, WIDTH), draw(1, CHANNELS, HEIGHT, WIDTH)
    sparse, no_mask = draw(6, 2, CHANNELS), draw(1, CHANNELS, 1, 1)
    decoded = decode(FrozenDecoder(upstream_decoder), images, pe, sparse, no_mask)
    dense = no_mask.expand(2, -1, HEIGHT, WIDTH)
    alone = [
        predict_masks(upstream_decoder, images[i : i + 1], pe, sparse[2 * i : 2 * i + 2], dense)
        for i in range(3)
    ]
    assert_same(decoded, [torch.cat(parts) for parts in zip(*alone, strict=True)])


@pytest.mark.parametrize("images", [1, 2])
def test_a_mask_prompt_for_each_prompt_is_decoded_as_upstream(upstream_decoder, draw, images):
    each = 4 // images
    embeddings, pe = draw(images, CHANNELS, HEIGHT, WIDTH), draw(1, CHANNELS, HEIGHT, WIDTH)
    sparse, dense = draw(4, 2, CHANNELS), draw(4, CHANNELS, HEIGHT, WIDTH)
    decoded = decode(FrozenDecoder(upstream_decoder), embeddings, pe, sparse, dense)
    alone = [
        predict_masks(
            upstream_decoder,
            embeddings[i : i + 1],
            pe,
            sparse[i * each : (i + 1) * each],
            dense[i * each : (i + 1) * each],
        )
        for i in range(images)
    ]
    assert_same(decoded, [torch.cat(parts) for parts in zip(*alone, strict=True)])


def test_a_mask_prompt_for_each_image_serves_all_its_prompts(upstream_decoder, draw):
    images, pe = draw(2, CHANNELS, HEIGHT, WIDTH), draw(1, CHANNELS, HEIGHT, WIDTH)
    sparse, dense = draw(4, 1, CHANNELS), draw(2, CHANNELS, HEIGHT, WIDTH)
    decoder = FrozenDecoder(upstream_decoder)
    repeated = decode(decoder, images, pe, sparse, dense.repeat_interleave(2, dim=0))
    assert_same(
        decode(decoder, images, pe, sparse, dense),
        (repeated.low_res_logits, repeated.iou_predictions, repeated.image_features),
    )


@pytest.mark.parametrize("outputs", [[[0], [0]], [[1, 2, 3], [1, 2, 3]], [[2, 0], [1, 3]]])
def test_each_prompt_gets_the_outputs_it_asks_for_in_their_order(upstream_decoder, draw, outputs):
    image, pe = draw(1, CHANNELS, HEIGHT, WIDTH), draw(1, CHANNELS, HEIGHT, WIDTH)
    sparse, dense = draw(2, 2, CHANNELS), draw(2, CHANNELS, HEIGHT, WIDTH)
    decoder = FrozenDecoder(upstream_decoder)
    decoded = decode(decoder, image, pe, sparse, dense, torch.tensor(outputs))
    logits, iou_predictions, features = predict_masks(upstream_decoder, image, pe, sparse, dense)
    rows = torch.arange(2)[:, None]
    assert_same(decoded, (logits[rows, outputs], iou_predictions[rows, outputs], features))


@pytest.mark.parametrize("learned", ["sparse", "dense", "both"])
@pytest.mark.parametrize(("images", "each"), [(1, 1), (1, 3), (2, 2)])
def test_gradients_reach_both_kinds_of_prompt_as_upstream(
    upstream_decoder, draw, images, each, learned
):
    embeddings, pe = draw(images, CHANNELS, HEIGHT, WIDTH), draw(1, CHANNELS, HEIGHT, WIDTH)
    count = images * each
    prompts = {
        "sparse": draw(count, 2, CHANNELS),
        "dense": draw(images, CHANNELS, HEIGHT, WIDTH),  # one of each image
    }
    wanted = [one.requires_grad_() for name, one in prompts.items() if learned in (name, "both")]
    sparse, dense = prompts.values()
    # Any function of all three results: each of them carries gradients in a training step.
    sizes = (4, 4 * HEIGHT, 4 * WIDTH), (4,), (HEIGHT * WIDTH, CHANNELS)
    pulls = [draw(count, *size) for size in sizes]

    def gradients(results):
        total = sum((one * pull).mean() for one, pull in zip(results, pulls, strict=True))
        return torch.autograd.grad(total, wanted)

    decoded = decode(FrozenDecoder(upstream_decoder), embeddings, pe, sparse, dense)
    found = gradients((decoded.low_res_logits, decoded.iou_predictions, decoded.image_features))
    alone = [
        predict_masks(
            upstream_decoder,
            embeddings[i : i + 1],
            pe,
            sparse[i * each : (i + 1) * each],
            dense[i : i + 1].expand(each, -1, -1, -1),
        )
        for i in range(images)
    ]
    expected = gradients([torch.cat(parts) for parts in zip(*alone, strict=True)])
    for mine, theirs in zip(found, expected, strict=True):
        assert theirs.abs().max() > 0
        assert difference(mine, theirs) <= 1e-3


@pytest.mark.parametrize("result", ["tokens", "cells"])
def test_a_gradient_from_tokens_or_cells_alone_is_upstreams(upstream_decoder, draw, result):
    image, pe = draw(1, CHANNELS, HEIGHT, WIDTH), draw(1, CHANNELS, HEIGHT, WIDTH)
    no_mask, sparse = draw(1, CHANNELS, 1, 1), draw(2, 2, CHANNELS).requires_grad_()
    tokens, cells = FrozenDecoder(upstream_decoder).attend(image, pe, sparse, no_mask)
    output_tokens = [upstream_decoder.iou_token.weight, upstream_decoder.mask_tokens.weight]
    prompt = torch.cat([torch.cat(output_tokens).expand(2, -1, -1), sparse], dim=1)
    src = (image + no_mask).expand(2, -1, -1, -1)
    expected = upstream_decoder.transformer(src, pe.expand(2, -1, -1, -1), prompt)
    mine, theirs = (tokens, expected[0]) if result == "tokens" else (cells, expected[1])
    pull = draw(*mine.shape)
    (found,) = torch.autograd.grad((mine * pull).sum(), sparse)
    (wanted,) = torch.autograd.grad((theirs * pull).sum(), sparse)
    assert difference(found, wanted) <= 1e-3


@pytest.mark.parametrize("backward", [False, True])
def test_what_a_step_needed_is_freed_with_its_result(upstream_decoder, draw, backward):
    image, pe = draw(1, CHANNELS, HEIGHT, WIDTH), draw(1, CHANNELS, HEIGHT, WIDTH)
    no_mask, sparse = draw(1, CHANNELS, 1, 1), draw(1, 2, CHANNELS).requires_grad_()
    tokens, cells = FrozenDecoder(upstream_decoder).attend(image, pe, sparse, no_mask)
    kept = [weakref.ref(layer) for layer in cells.grad_fn.layers]
    assert all(layer() is not None for layer in kept)
    if backward:
        (tokens.sum() + cells.sum()).backward()
    del tokens, cells
    assert all(layer() is None for layer in kept)


def test_some_cells_decode_to_their_own_blocks_of_the_whole(upstream_decoder, draw):
    image, pe = draw(1, CHANNELS, HEIGHT, WIDTH), draw(1, CHANNELS, HEIGHT, WIDTH)
    sparse, no_mask = draw(2, 1, CHANNELS), draw(1, CHANNELS, 1, 1)
    decoder = FrozenDecoder(upstream_decoder)
    whole = decode(decoder, image, pe, sparse, no_mask).low_res_logits
    tokens, cells = decoder.attend(image, pe, sparse, no_mask)
    chosen = torch.tensor([17, 0, HEIGHT * WIDTH - 1, 17])  # corners, any order, one twice
    mixing = torch.eye(4)[torch.tensor([[1, 2], [1, 2]])]
    blocks = decoder.mask_blocks(tokens, cells[:, chosen], mixing)
    assert blocks.shape == (2, 2, 4, 16)
    for place, cell in enumerate(chosen.tolist()):
        top, left = 4 * (cell // WIDTH), 4 * (cell % WIDTH)
        for inside in range(16):
            coarse_row, coarse_column, row, column = (inside >> bit & 1 for bit in (3, 2, 1, 0))
            torch.testing.assert_close(
                blocks[:, :, place, inside],
                whole[:, 1:3, top + 2 * coarse_row + row, left + 2 * coarse_column + column],
                rtol=1e-4,
                atol=1e-4,
            )


def test_a_mixture_is_the_weighted_sum_of_the_outputs_logits(upstream_decoder, draw):
    decoder = FrozenDecoder(upstream_decoder)
    tokens, cells, mixing = draw(2, 7, CHANNELS), draw(2, 5, CHANNELS), draw(2, 3, 4)
    four = decoder.mask_blocks(tokens, cells)
    mixed = decoder.mask_blocks(tokens, cells, mixing)
    for prompt in range(2):
        for mask in range(3):
            expected = sum(mixing[prompt, mask, n] * four[prompt, n] for n in range(4))
            torch.testing.assert_close(mixed[prompt, mask], expected, rtol=1e-4, atol=1e-4)


@pytest.fixture
def smooth_decoder(upstream_decoder):
    """The logits of a cell are more or less alike, as a trained decoder's are."""
    decoder = copy.deepcopy(upstream_decoder)
    for layer in (decoder.output_upscaling[0], decoder.output_upscaling[3]):
        layer.weight.lerp_(layer.weight.mean(dim=(2, 3), keepdim=True), 0.8)
    return FrozenDecoder(decoder)


@pytest.mark.parametrize("inside", [(3, 21), (1, 21), (3, 17)], ids=["all", "wide", "high"])
@pytest.mark.parametrize("outputs", [[[0], [3]], [[1, 2, 3], [0, 2, 1]]])
def test_whole_masks_are_exact_but_for_cells_far_from_any_boundary(
    smooth_decoder, draw, outputs, inside
):
    # A surface that rises from left to right in 21 columns, so that some are far from zero.
    decoder, height, width = smooth_decoder, 3, 21
    mixing = torch.eye(4)[torch.tensor(outputs)]
    ramp = torch.linspace(-1, 1, width).expand(height, width).flatten()[:, None]
    tokens, cells = 1.6 * draw(2, 7, CHANNELS), ramp * draw(2, 1, CHANNELS) + draw(1, 1, CHANNELS)
    exact = decoder.mask_blocks(tokens, cells, mixing)
    found = decoder.mask_logits(tokens, cells, mixing, (height, width), inside)
    plain = torch.zeros(2, mixing.shape[1], height, width, dtype=torch.bool)
    for prompt in range(2):
        for row in range(height):
            for column in range(width):
                rows, columns = (slice(max(0, at - 1), at + 2) for at in (row, column))
                blocks = exact[prompt].view(-1, height, width, 16)[:, rows, columns]
                diagonal = blocks[..., [0, 3, 12, 15]].flatten(1)
                sides = (diagonal >= 5).all(dim=1) | (diagonal <= -5).all(dim=1)
                plain[prompt, :, row, column] = sides
    plain[..., inside[0] + 1 :, :] = plain[..., inside[1] + 1 :] = True  # padding
    assert 5 < plain.sum() < plain.numel() - 5  # both kinds are there
    coarse = exact[..., :1].expand(-1, -1, -1, 16)
    expected = torch.where(plain.flatten(2)[..., None], coarse, exact)
    expected = decoder.assemble(expected, (height, width))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_mask_far_from_any_boundary_everywhere_needs_no_cell(smooth_decoder, draw):
    mixing, cell = torch.eye(4)[1].expand(1, 1, 4), draw(1, 1, CHANNELS)
    last = smooth_decoder.layers.output_hypernetworks_mlps[1].layers[-1]
    last.weight.zero_()
    last.bias.fill_(1.0)  # logits that are sums of features,
    smooth_decoder.layers.output_upscaling[3].bias.add_(5)  # which are positive
    tokens = draw(1, 7, CHANNELS)
    exact = smooth_decoder.mask_blocks(tokens, cell, mixing).flatten()
    assert exact.min() > 5
    found = smooth_decoder.mask_logits(tokens, cell.expand(-1, 6, -1), mixing, (2, 3), (2, 3))
    torch.testing.assert_close(found, exact[0].expand(1, 1, 8, 12), rtol=1e-4, atol=1e-3)


def test_predicted_iou_can_be_had_without_decoding_a_mask(upstream_decoder, draw):
    image, pe = draw(1, CHANNELS, HEIGHT, WIDTH), draw(1, CHANNELS, HEIGHT, WIDTH)
    sparse, no_mask = draw(2, 1, CHANNELS), draw(1, CHANNELS, 1, 1)
    decoder = FrozenDecoder(upstream_decoder)
    tokens, _ = decoder.attend(image, pe, sparse, no_mask)
    whole = decode(decoder, image, pe, sparse, no_mask).iou_predictions
    assert torch.equal(decoder.predict_iou(tokens), whole)


def test_many_tokens_have_the_cells_projected_and_get_the_same_gradient(upstream_decoder, draw):
    images, pe = draw(2, CHANNELS, HEIGHT, WIDTH), draw(1, CHANNELS, HEIGHT, WIDTH)
    no_mask, direction = draw(1, CHANNELS, 1, 1), draw(2, 35, CHANNELS)
    sparse = draw(2, 30, CHANNELS).requires_grad_()
    decoder = FrozenDecoder(upstream_decoder)
    tokens, cells = decoder.attend(images, pe, sparse, no_mask)
    prompt = decoder._with_outputs(sparse)
    transformer, features = upstream_decoder.transformer, cell_by_cell(images + no_mask)
    folded_tokens, folded_cells = two_way(transformer, prompt, features, cell_by_cell(pe))
    assert difference(tokens.detach(), folded_tokens.detach()) <= 1e-4
    assert difference(cells.detach(), folded_cells.detach()) <= 1e-4
    (found,) = torch.autograd.grad((tokens * direction).sum() + cells.square().sum(), sparse)
    (folded,) = torch.autograd.grad(
        (folded_tokens * direction).sum() + folded_cells.square().sum(), sparse
    )
    assert difference(found, folded) <= 1e-2
