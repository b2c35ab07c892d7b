"""prompts.py: prompts are checked, and drawn from masks."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from samtune.errors import PromptError
from samtune.prompts import (
    MOST_POINTS,
    Prompt,
    box_around,
    center_point,
    jittered_box,
    point_pair,
    random_point,
    sample_point,
)

MASKS = arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))).filter(np.any)


def _distance_by_hand(mask: np.ndarray) -> np.ndarray:
    """From each pixel to the nearest outside of the mask, the image's surroundings included."""
    padded = np.pad(mask, 1)
    outside = np.argwhere(~padded)
    inside = np.argwhere(padded)
    distance = np.zeros(padded.shape)
    steps = inside[:, None, :] - outside[None, :, :]
    distance[padded] = np.sqrt((steps**2).sum(axis=2)).min(axis=1)
    return distance[1:-1, 1:-1]


def _xy(prompt: Prompt) -> tuple[int, int]:
    ((x, y),) = prompt.points.tolist()
    assert (x, y) == (int(x), int(y))
    return int(x), int(y)


# --- a prompt -----------------------------------------------------------------------------------


def test_a_prompt_of_plain_numbers_has_sams_types():
    prompt = Prompt.of(points=[(1, 2)], negative_points=[(3, 4)], box=(0, 0, 9, 8))
    assert (prompt.points.dtype, prompt.points.tolist()) == (np.float32, [[1, 2], [3, 4]])
    assert (prompt.labels.dtype, prompt.labels.tolist()) == (np.int64, [1, 0])
    assert prompt.box.dtype == np.float32
    assert Prompt.of(box=(0, 0, 9, 8)).points.shape == (0, 2)


@pytest.mark.parametrize(
    ("numbers", "told"),
    [
        ({}, "give a box, or a point on the object"),
        ({"negative_points": [(1, 2)]}, "points on the background alone do not"),
        ({"points": [(float("nan"), 2)]}, "not all finite"),
        ({"points": [(float("inf"), 2)]}, "not all finite"),
        ({"box": (0, 0, float("nan"), 5)}, "not four finite numbers"),
        ({"box": (5, 5, 5, 9)}, r"the box 5,5,5,9 has no area.*x0 < x1"),
        ({"box": (9, 9, 5, 5)}, "has no area"),  # corners in the wrong order
        ({"points": [(1, 2)], "box": (0, 4, 9, 4)}, "has no area"),
    ],
)
def test_a_prompt_that_says_nothing_is_refused_in_words(numbers, told):
    with pytest.raises(PromptError, match=told):
        Prompt.of(**numbers)


def test_points_that_would_fill_memory_are_too_many():
    points = [(float(n % 40), float(n // 40)) for n in range(MOST_POINTS + 1)]
    assert len(Prompt.of(points=points[:-1]).points) == 1_000
    with pytest.raises(PromptError, match=r"1,001 points are too many: give at most 1,000"):
        Prompt.of(points=points)


def test_labels_are_0_or_1_and_one_a_point():
    points = np.zeros((2, 2), dtype=np.float32)
    with pytest.raises(PromptError, match="2 points have 1 labels"):
        Prompt(points, np.array([1]))
    with pytest.raises(PromptError, match=r"labels \[1, 2\] are not all 0 or 1"):
        Prompt(points, np.array([1, 2]))


@pytest.mark.parametrize("point", [(0, 0), (-0.5, -0.5), (5.4, 3.4), (5, 3)])
def test_points_on_the_images_pixels_are_inside(point):
    Prompt.of(points=[point]).check_inside((4, 6))


@pytest.mark.parametrize(
    ("point", "shown"), [((-1, 2), "-1,2"), ((2, 4), "2,4"), ((5.5, 0), "5.5,0"), ((3, 5), "3,5")]
)
def test_a_point_outside_of_the_image_is_named_with_the_images_size(point, shown):
    # 2,4 and 3,5 would be inside if width and height were exchanged.
    with pytest.raises(PromptError, match=f"point {shown} lies outside.*6 px wide and 4 px high"):
        Prompt.of(points=[(1, 1)], negative_points=[point]).check_inside((4, 6))


def test_a_box_may_end_where_the_image_does():
    # Both ways to count are common: through the last pixels' centres, and at their far edge.
    Prompt.of(box=(0, 0, 5, 3)).check_inside((4, 6))
    Prompt.of(box=(0, 0, 6, 4)).check_inside((4, 6))


@pytest.mark.parametrize("box", [(-1, 0, 5, 3), (0, -2, 5, 3), (0, 0, 7, 3), (0, 0, 3, 6)])
def test_a_box_that_reaches_outside_is_named(box):
    with pytest.raises(PromptError, match=r"box .* reaches outside .*6 px wide and 4 px high"):
        Prompt.of(box=box).check_inside((4, 6))


# --- prompts from a mask --------------------------------------------------------------------------


@given(MASKS)
@example(np.ones((5, 9), dtype=bool))  # the image's border is the mask's border
@settings(max_examples=100, deadline=None)
def test_the_centre_is_the_first_pixel_farthest_from_the_border(mask):
    x, y = _xy(center_point(mask))
    distance = _distance_by_hand(mask)
    assert mask[y, x]
    assert distance[y, x] == pytest.approx(distance.max(), abs=1e-4)
    first = np.argwhere(np.isclose(distance, distance.max(), atol=1e-4))[0].tolist()
    assert [y, x] == first


def test_the_centre_is_found_by_true_distances_and_not_by_steps():
    # A diamond whose border is 40.3 from its centre, beside a square with 40. Distances added
    # up of straight and diagonal steps, the faster way, come to 39.9 for the diamond.
    ys, xs = np.mgrid[:120, :220]
    diamond = abs(xs - 150) + abs(ys - 58) <= 56
    square = np.maximum(abs(xs - 45), abs(ys - 58)) <= 39
    assert _xy(center_point(diamond | square)) == (150, 58)


def test_the_lowest_draw_is_on_the_object_too():
    class Zero:
        def random(self) -> float:
            return 0.0  # a generator's lowest number, drawn once in 2^53

    mask = np.zeros((4, 6), dtype=bool)
    mask[2, 3] = True
    assert _xy(sample_point(mask, Zero())) == (3, 2)


def test_points_are_labelled_as_lying_on_the_object():
    mask = np.zeros((6, 9), dtype=bool)
    mask[2, 5:8] = True
    rng = np.random.default_rng(0)
    for prompt in (center_point(mask), sample_point(mask, rng), random_point(mask, rng)):
        assert prompt.labels.tolist() == [1]
        assert prompt.box is None


@pytest.mark.parametrize("draw", [sample_point, random_point])
@given(mask=MASKS, seed=st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_drawn_points_lie_on_the_object(draw, mask, seed):
    x, y = _xy(draw(mask, np.random.default_rng(seed)))
    assert mask[y, x]


@pytest.mark.parametrize("draw", [sample_point, random_point, jittered_box])
def test_the_same_seed_draws_the_same_prompt(draw):
    mask = np.zeros((50, 70), dtype=bool)
    mask[10:40, 20:60] = True

    def drawn(seed: int) -> list[float]:
        result = draw(mask, np.random.default_rng(seed))
        return (result.points if isinstance(result, Prompt) else result).ravel().tolist()

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_points_are_drawn_as_often_as_they_are_far_from_the_border():
    mask = np.zeros((7, 9), dtype=bool)
    mask[1:6, 1:8] = True
    rng = np.random.default_rng(0)
    count = 6000
    drawn = np.zeros(mask.shape)
    for _ in range(count):
        x, y = _xy(sample_point(mask, rng))
        drawn[y, x] += 1
    expected = _distance_by_hand(mask)
    expected *= count / expected.sum()
    # Each count varies by about the square root of its expectation; four of these are a miss.
    assert (np.abs(drawn - expected) <= 4 * np.sqrt(expected)).all()


def test_uniform_points_are_drawn_equally_often_everywhere():
    mask = np.zeros((7, 9), dtype=bool)
    mask[1:6, 1:8] = True
    rng = np.random.default_rng(0)
    drawn = np.zeros(mask.shape)
    for _ in range(3500):
        x, y = _xy(random_point(mask, rng))
        drawn[y, x] += 1
    assert (np.abs(drawn[mask] - 100) < 4 * 10).all()


@given(MASKS)
@settings(max_examples=60, deadline=None)
def test_the_box_is_tight_and_always_a_prompt(mask):
    ys, xs = np.nonzero(mask)
    box = box_around(mask)
    Prompt.of(box=tuple(box.tolist())).check_inside(mask.shape)
    for low, high, extent in ((box[0], box[2], xs), (box[1], box[3], ys)):
        if extent.min() < extent.max():
            assert (low, high) == (extent.min(), extent.max())
        else:  # a line: the pixel's own width
            assert (low, high) == (extent[0] - 0.5, extent[0] + 0.5)


@given(MASKS, st.integers(0, 1000), st.floats(0, 0.24))
@settings(max_examples=60, deadline=None)
def test_a_jittered_box_is_always_a_prompt(mask, seed, amount):
    box = jittered_box(mask, np.random.default_rng(seed), amount)
    Prompt.of(box=tuple(box.tolist())).check_inside(mask.shape)


@pytest.mark.parametrize("seed", range(5))
def test_a_pair_is_the_centre_and_a_background_point_near_the_object(seed):
    mask = np.zeros((100, 200), dtype=bool)
    mask[40:50, 60:80] = True  # its box grown by half of 20 pixels: x 50 to 89, y 30 to 59
    pair = point_pair(mask, np.random.default_rng(seed))
    assert pair.labels.tolist() == [1, 0]
    assert pair.points[0].tolist() == center_point(mask).points[0].tolist()
    x, y = pair.points[1].astype(int).tolist()
    assert not mask[y, x]
    assert 49 <= x <= 90
    assert 29 <= y <= 60


def test_a_pair_looks_farther_where_there_is_no_background_near():
    mask = np.ones((20, 100), dtype=bool)
    mask[:, 95:] = False
    mask[:, :10] = True
    pair = point_pair(mask, np.random.default_rng(0))
    assert pair.points[1][0] >= 95
    assert point_pair(np.ones((20, 100), dtype=bool), np.random.default_rng(0)) is None


def test_a_jittered_box_is_off_by_the_share_asked_for_and_not_beyond_twice_that():
    mask = np.zeros((300, 500), dtype=bool)
    mask[100:201, 100:301] = True  # 200 wide and 100 high from centre to centre
    rng = np.random.default_rng(0)
    off = np.array([jittered_box(mask, rng, 0.1) for _ in range(500)]) - box_around(mask)
    assert (np.abs(off) <= [40, 20, 40, 20]).all()
    # Normal noise cut at two deviations has 0.96 of one.
    assert off.std(axis=0) == pytest.approx([19.2, 9.6, 19.2, 9.6], rel=0.1)
    assert off.mean(axis=0) == pytest.approx([0, 0, 0, 0], abs=3)
    assert (jittered_box(mask, rng, 0) == box_around(mask)).all()


@pytest.mark.parametrize(
    "draw",
    [
        center_point,
        box_around,
        lambda mask: sample_point(mask, np.random.default_rng(0)),
        lambda mask: random_point(mask, np.random.default_rng(0)),
        lambda mask: jittered_box(mask, np.random.default_rng(0)),
    ],
)
def test_an_empty_mask_is_the_callers_bug(draw):
    with pytest.raises(ValueError, match="no pixel"):
        draw(np.zeros((4, 6), dtype=bool))


def test_a_prompt_for_everything_has_no_place_and_is_inside_of_any_image():
    prompt = Prompt.of_everything()
    assert prompt.everything
    assert (prompt.points.shape, prompt.labels.shape, prompt.box) == ((0, 2), (0,), None)
    prompt.check_inside((1, 1))
    with pytest.raises(ValueError, match="no point"):
        Prompt(np.zeros((1, 2), np.float32), np.ones(1, np.int64), everything=True)
    assert not Prompt.of([(1, 2)]).everything
