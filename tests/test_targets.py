"""Targets: which cells an object covers, and where other images look like it."""

import numpy as np
import pytest
import torch

from samtune.input_frame import Embedding
from samtune.targets import (
    Direction,
    Trace,
    cells_inside,
    covered_share,
    is_object,
    point_in_cell,
)

SIZE = (60, 80)  # scaled to 96 × 128 px of the input: 6 of 8 rows of cells


def embedding(cells=None, size=SIZE):
    """An 8×8 grid of cells of 128 px; random ones unless they are given as (8, 8, 256)."""
    if cells is None:
        cells = np.random.default_rng(0).normal(size=(8, 8, 256))
    scale = 128 / max(size)
    framed = round(size[0] * scale), round(size[1] * scale)
    features = torch.from_numpy(cells.astype(np.float32)).permute(2, 0, 1)
    return Embedding(features, size, framed)


def test_the_share_of_a_cell_is_exact_although_pixels_and_cells_do_not_align():
    # A pixel is 1.6 px of the input, a cell 10 pixels; the mask covers pixels 4 to 13 and 7 to 11.
    mask = np.zeros(SIZE, dtype=bool)
    mask[7:12, 4:14] = True
    expected = np.zeros((6, 8))
    expected[:2, :2] = np.outer([0.3, 0.2], [0.6, 0.4])
    np.testing.assert_allclose(covered_share(mask, embedding()), expected, atol=1e-6)


def test_shares_add_up_to_the_masks_area_for_any_size():
    rng = np.random.default_rng(1)
    for size in ((97, 128), (61, 83), (33, 200)):
        one = embedding(size=size)
        mask = np.zeros(size, dtype=bool)
        mask[: size[0] // 2] = rng.random((size[0] // 2, size[1])) < 0.5
        scale = np.prod(one.input_size) / np.prod(size)
        assert covered_share(mask, one).sum() * 256 == pytest.approx(mask.sum() * scale, rel=1e-4)


def test_an_object_has_the_cells_it_covers_by_half_or_its_best_one():
    share = np.array([[0.5, 0.49, 0.9]])
    assert is_object(share).tolist() == [[True, False, True]]
    assert is_object(share / 10).tolist() == [[False, False, True]]


def test_cells_whose_centre_is_in_the_padding_take_no_part():
    assert cells_inside(embedding()) == (6, 8)
    assert cells_inside(embedding(size=(55, 80))) == (6, 8)  # 88 px: half of the sixth row
    assert cells_inside(embedding(size=(54, 80))) == (5, 8)  # 86 px: less than half
    assert cells_inside(embedding(size=(1, 80))) == (1, 8)


def test_the_point_of_a_cell_is_in_the_cell_and_in_the_image():
    # Cell (1, 2) has the input's pixels 16 to 32 and 32 to 48: the image's 10 to 20 and 20 to 30.
    assert point_in_cell((1, 2), embedding()) == (24.5, 14.5)
    x, y = point_in_cell((0, 7), embedding(size=(1, 80)))
    assert (x, y) == (74.5, 0)


def test_a_trace_takes_object_and_background_apart():
    one = embedding()
    mask = np.zeros(SIZE, dtype=bool)
    mask[10:20, 20:35] = True  # a cell, and half of the next one
    trace = Trace.of([mask], one)
    cells = one.features.permute(1, 2, 0).numpy()
    assert np.array_equal(trace.objects[0], cells[1, 2:4])
    assert len(trace.background) == 6 * 8 - 2
    np.testing.assert_allclose(trace.target(peak=False), cells[1, 2:4].mean(axis=0), rtol=1e-5)
    peak = (cells[1, 2:4].mean(axis=0) + cells[1, 2:4].max(axis=0)) / 2
    np.testing.assert_allclose(trace.target(peak=True), peak, rtol=1e-5)


def test_an_object_without_a_tenth_of_a_cell_leaves_no_trace():
    mask = np.zeros(SIZE, dtype=bool)
    mask[10:13, 20:23] = True  # 9 of 100 pixels of a cell
    assert Trace.of([mask], embedding()) is None
    mask[10:13, 23] = True  # 12 of them
    trace = Trace.of([mask], embedding())
    assert len(trace.objects[0]) == 1


def test_without_background_likeness_is_the_cosine_but_for_its_scale():
    one = embedding()
    mask = np.zeros(SIZE, dtype=bool)
    mask[10:30, 20:40] = True
    trace = Trace.of([mask], one)
    likeness = Direction.fit([trace], background=False, peak=False).likeness(one)
    cells = one.features[:, :6].permute(1, 2, 0)
    target = torch.from_numpy(trace.target(peak=False))
    cosine = torch.cosine_similarity(cells, target.expand_as(cells), dim=-1).numpy()
    assert np.corrcoef(likeness.ravel(), cosine.ravel())[0, 1] == pytest.approx(1, abs=1e-6)
    assert likeness[1:3, 2:4].mean() == pytest.approx(1, abs=1e-4)
    off = np.ones((6, 8), dtype=bool)
    off[1:3, 2:4] = False
    assert likeness[off].mean() == pytest.approx(0, abs=1e-4)


def painted(seed, at, common=8.0):
    """Cells with much in common, noise in some channels, and a weak sign on the object's."""
    rng = np.random.default_rng(seed)
    cells = np.zeros((8, 8, 256))
    cells[..., 0] = common
    cells[..., 1:5] = 3 * rng.normal(size=(8, 8, 4))  # where the background varies
    cells[..., 5:] = 0.1 * rng.normal(size=(8, 8, 251))
    cells[at][..., 9] += 1.0
    return cells


def test_the_background_finds_what_the_cosine_does_not():
    mask = np.zeros(SIZE, dtype=bool)
    mask[10:20, 20:30] = True
    trace = Trace.of([mask], embedding(painted(0, (1, 2))))
    found = {}
    for background in (False, True):
        direction = Direction.fit([trace], background=background, peak=False)
        found[background] = [
            np.unravel_index(direction.likeness(embedding(painted(seed, (4, 5)))).argmax(), (6, 8))
            == (4, 5)
            for seed in range(1, 11)
        ]
    assert sum(found[True]) >= 8
    assert sum(found[False]) <= 4


@pytest.mark.parametrize("images", [1, 3])
def test_the_direction_against_the_background_is_fishers(images):
    def unit(cells):
        cells = cells.astype(np.float64)
        return cells / np.linalg.norm(cells, axis=1)[:, None]

    traces = []
    for seed in range(images):  # each with its own middle, and with an object of another size
        cells = np.random.default_rng(seed).normal(1 + 0.1 * seed, 1, size=(8, 8, 256))
        mask = np.zeros(SIZE, dtype=bool)
        mask[10:30, 20 : 40 + 10 * seed] = True
        traces.append(Trace.of([mask], embedding(cells)))
    direction = Direction.fit(traces, background=True, peak=False).vector
    on = np.mean([unit(one.objects[0]).mean(axis=0) for one in traces], axis=0)
    off = np.mean([unit(one.background).mean(axis=0) for one in traces], axis=0)
    about = np.concatenate([unit(one.background) for one in traces]) - off
    spread = about.T @ about / len(about)
    spread += 0.1 * np.trace(spread) / 256 * np.eye(256)
    expected = np.linalg.inv(spread) @ (on - off)
    cosine = direction @ expected / np.linalg.norm(direction) / np.linalg.norm(expected)
    assert cosine == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("cells", ["one", "all alike"])
def test_a_background_that_does_not_vary_is_known_from_the_object(cells):
    drawn = np.random.default_rng(0).normal(size=(8, 8, 256))
    mask = np.ones(SIZE, dtype=bool)
    if cells == "one":
        mask[:10, :10] = False
    else:
        drawn[:, 4:] = drawn[0, 4]
        mask[:, 35:] = False
    one = embedding(drawn)
    likeness = Direction.fit([Trace.of([mask], one)], background=True, peak=False).likeness(one)
    off = covered_share(~mask, one) > 0.99
    assert off.any()
    np.testing.assert_allclose(likeness[off], 0, atol=1e-3)
    assert likeness[covered_share(mask, one) > 0.99].mean() == pytest.approx(1, abs=0.15)


def test_the_scale_is_that_of_references_seen_by_the_others():
    # Each has a sign of its own beside the common one: to itself it would be more than to others.
    traces = []
    for seed in range(3):
        cells = painted(seed, (1, 2))
        cells[1, 2, 20 + seed] += 3.0
        mask = np.zeros(SIZE, dtype=bool)
        mask[10:20, 20:30] = True
        traces.append(Trace.of([mask], embedding(cells)))
    direction = Direction.fit(traces, background=True, peak=False)
    cells = painted(7, (1, 2))
    cells[1, 2, 30] += 3.0
    unseen = direction.likeness(embedding(cells))[1, 2]
    own = direction.likeness(embedding(painted(0, (1, 2))))[1, 2]
    alone = Direction.fit(traces[:1], background=True, peak=False)
    assert 0.4 < unseen < 2.5
    assert alone.likeness(embedding(cells))[1, 2] < 0.6 * unseen
    assert own > 0.4


def test_objects_that_fill_their_images_have_a_direction_too():
    trace = Trace.of([np.ones(SIZE, dtype=bool)], embedding())
    assert not len(trace.background)
    assert np.isfinite(Direction.fit([trace], background=True, peak=False).vector).all()
