"""prompt_text.py: prompts are read from the shell and JSON lines."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from samtune.errors import PromptError
from samtune.prompt_text import format_prompt_line, parse_box, parse_point, parse_prompt_line
from samtune.prompts import Prompt


def test_points_and_boxes_are_read_from_the_shell():
    assert parse_point("120,340") == (120, 340)
    assert parse_point(" 1.5 , -2e1 ") == (1.5, -20)
    assert parse_box("1,2,3.5,4") == (1, 2, 3.5, 4)


@pytest.mark.parametrize(
    "text", ["", "120", "1,2,3", "1;2", "a,b", "1,", "nan,3", "1,inf", "1,2,", "1,1e300"]
)
def test_what_is_no_point_is_shown_beside_what_is(text):
    with pytest.raises(PromptError) as caught:
        parse_point(text)
    assert repr(text) in str(caught.value)
    assert "for example 120,340" in str(caught.value)


@pytest.mark.parametrize("text", ["", "1,2", "1,2,3", "1,2,3,4,5", "1,2,3,x", "1,2,3,nan"])
def test_what_is_no_box_is_shown_beside_what_is(text):
    with pytest.raises(PromptError, match="a box is four numbers x0,y0,x1,y1"):
        parse_box(text)


def test_a_line_of_prompts_is_read_with_points_labels_and_box():
    line = parse_prompt_line(
        '{"image": "a b.jpg", "points": [[1, 2], [3.5, 4]], "labels": [1, 0], "box": [0, 0, 9, 8]}'
    )
    assert str(line.image) == "a b.jpg"
    assert line.prompt.points.tolist() == [[1, 2], [3.5, 4]]
    assert line.prompt.labels.tolist() == [1, 0]
    assert line.prompt.box.tolist() == [0, 0, 9, 8]


def test_points_without_labels_lie_on_the_object():
    line = parse_prompt_line('{"image": "a.jpg", "points": [[1, 2], [3, 4]]}')
    assert line.prompt.labels.tolist() == [1, 1]
    assert line.prompt.box is None


def test_a_box_alone_and_nulls_for_the_rest_are_a_prompt():
    line = {"image": "a.jpg", "points": None, "labels": None, "box": [0, 0, 9, 8]}
    assert parse_prompt_line(json.dumps(line)).prompt.points.shape == (0, 2)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "not a line of JSON"),
        ("{", "not a line of JSON"),
        ("[" * 100_000, "not a line of JSON"),
        ("[1, 2]", "not a JSON object"),
        ('{"points": [[1, 2]]}', '"image" does not name a file'),
        ('{"image": "", "points": [[1, 2]]}', '"image" does not name a file'),
        ('{"image": 7, "points": [[1, 2]]}', '"image" does not name a file'),
        ('{"image": "a", "point": [[1, 2]]}', "unknown key 'point': a line has image, points"),
        ('{"image": "a", "points": [1, 2]}', r'"points" is a list of \[x, y\], not 1'),
        ('{"image": "a", "points": {}}', r'"points" is a list of \[x, y\], not {}'),
        ('{"image": "a", "points": [[1, 2, 3]]}', r'"points" is a list of \[x, y\]'),
        ('{"image": "a", "points": [["1", "2"]]}', r'"points" is a list of \[x, y\]'),
        ('{"image": "a", "points": [[true, 2]]}', r'"points" is a list of \[x, y\]'),
        ('{"image": "a", "points": [[NaN, 2]]}', r'"points" is a list of \[x, y\]'),
        ('{"image": "a", "points": [[1e999, 2]]}', r'"points" is a list of \[x, y\]'),
        ('{"image": "a", "points": [[1, 2]], "labels": [2]}', '"labels" is a list of 1 and 0'),
        ('{"image": "a", "points": [[1, 2]], "labels": [true]}', '"labels" is a list of 1'),
        ('{"image": "a", "points": [[1, 2]], "labels": 1}', '"labels" is a list of 1 and 0'),
        ('{"image": "a", "points": [[1, 2]], "labels": [1, 1]}', "1 points have 2 labels"),
        ('{"image": "a", "box": [1, 2, 3]}', r'"box" is \[x0, y0, x1, y1\]'),
        ('{"image": "a", "box": [9, 9, 1, 1]}', "has no area"),
        ('{"image": "a"}', "give a box, or a point"),
    ],
)
def test_a_bad_line_of_prompts_says_what_is_wrong_in_one_line(text, told):
    with pytest.raises(PromptError, match=told) as caught:
        parse_prompt_line(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(st.sampled_from(["image", "points", "labels", "box"]), inner)
        ),
        max_leaves=8,
    )
)
@settings(max_examples=200, deadline=None)
def test_any_json_is_a_prompt_or_a_prompt_error(value):
    try:
        line = parse_prompt_line(json.dumps(value))
    except PromptError:
        return
    assert isinstance(line.prompt, Prompt)


COORDINATES = st.floats(-1e6, 1e6, width=32)


@given(
    name=st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1),
    points=st.lists(st.tuples(COORDINATES, COORDINATES, st.booleans()), max_size=4),
    corner=st.none() | st.tuples(COORDINATES, COORDINATES),
)
def test_a_written_line_is_read_as_the_same_prompt(name, points, corner):
    positive = [(x, y) for x, y, on_object in points if on_object]
    negative = [(x, y) for x, y, on_object in points if not on_object]
    assume(positive or corner)
    box = corner and (*corner, corner[0] + 1000, corner[1] + 1.5)
    prompt = Prompt.of(positive, negative, box)
    line = format_prompt_line(Path(name), prompt)
    assert "\n" not in line
    read = parse_prompt_line(line)
    assert read.image == Path(name)
    assert np.array_equal(read.prompt.points, prompt.points)
    assert np.array_equal(read.prompt.labels, prompt.labels)
    assert (read.prompt.box is None) == (box is None)
    assert box is None or np.array_equal(read.prompt.box, prompt.box)
