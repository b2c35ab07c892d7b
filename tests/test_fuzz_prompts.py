"""Prompts from anybody: a line has its answer or an error in its place, whatever is in it."""

import json
import math

import numpy as np
import pytest
from broken_data import photo, save
from command import files_in, run, use_instead_of_weights
from fuzzing import (
    ANYTHING,
    NUMBERS,
    TEXTS,
    answer_or_refusal,
    cases,
    changed,
    damaged_text,
    is_one_line,
)
from hypothesis import given
from hypothesis import strategies as st

from samtune.errors import PromptError
from samtune.prompt_text import (
    LONGEST_LINE,
    format_prompt_line,
    parse_box,
    parse_point,
    parse_prompt_line,
)
from samtune.prompts import MOST_POINTS

LINE = {"image": "a.jpg", "points": [[9, 9], [3.5, 20]], "labels": [1, 0], "box": [2, 3, 30, 20]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    save(folder / "a.jpg", photo())
    return folder


@pytest.fixture
def ask(folder, tiny_sam, monkeypatch, tmp_path):
    """Answer lines of bytes by `samtune segment`, in the folder of a.jpg."""
    use_instead_of_weights(tiny_sam, monkeypatch, tmp_path)
    monkeypatch.chdir(folder)

    def ask(*lines, source="-"):
        content = b"\n".join(lines) + b"\n"
        words = ["segment", "--prompts", source, "-o", tmp_path / "out", "--quiet"]
        if source != "-":
            source.write_bytes(content)
        result = run(*words, stdin=content if source == "-" else None)
        answers = [json.loads(line) for line in result.stdout.splitlines()]
        assert result.exit_code == int(any("error" in one for one in answers))
        assert files_in(folder) == {"a.jpg"}
        return answers

    return ask


def are_answered(lines, answers):
    """Each line that is not blank has one answer, in order: an error of one line, or a mask."""
    filled = [number for number, line in enumerate(lines, 1) if line.strip()]
    assert [one["line"] for one in answers] == filled
    for one in answers:
        if "error" in one:
            is_one_line(one["error"])
        else:
            assert one["image"] == "a.jpg"
            assert 0 <= one["score"] <= 1
            assert 0 <= one["area"] <= 24 * 32


def in_float32(number):
    """As prompts hold it, where 1e-320 is 0; infinity for what they cannot hold."""
    return float(np.float32(number)) if abs(number) < 2**31 else math.inf


def as_line(value):
    return json.dumps(value).encode()


NOT_A_LINE = st.binary(max_size=20).filter(lambda line: b"\n" not in line)


@cases(120)
@given(
    lines=st.lists(
        changed(LINE).map(as_line)
        | damaged_text(json.dumps(LINE)).map(lambda line: line.replace(b"\n", b" "))
        | ANYTHING.map(as_line)
        | NOT_A_LINE
        | st.just(as_line(LINE)),
        min_size=1,
        max_size=4,
    )
)
def test_every_line_is_answered_in_its_place(lines, ask):
    are_answered(lines, ask(*lines))


@cases(60)
@given(
    points=st.lists(st.tuples(NUMBERS, NUMBERS).map(list), max_size=5),
    box=st.none() | st.lists(NUMBERS | st.floats(-3, 40), min_size=4, max_size=4),
    data=st.data(),
)
def test_points_and_boxes_of_any_numbers(points, box, data, ask):
    labels = data.draw(st.lists(st.integers(0, 1), min_size=len(points), max_size=len(points)))
    line = as_line({"image": "a.jpg", "points": points, "labels": labels, "box": box})
    (answer,) = answers = ask(line)
    are_answered([line], answers)
    stored = [[in_float32(number) for number in point] for point in points]
    inside = all(-0.5 <= x < 31.5 and -0.5 <= y < 23.5 for x, y in stored)
    if box is not None:
        x0, y0, x1, y1 = map(in_float32, box)
        inside = inside and -0.5 <= x0 < x1 <= 32 and -0.5 <= y0 < y1 <= 24
    plain = not any(isinstance(number, bool) for number in [*sum(points, []), *(box or [])])  # noqa: RUF017
    assert ("error" not in answer) == (inside and plain and (1 in labels or box is not None))


@cases(60)
@given(
    image=TEXTS | st.sampled_from(["/dev/stdin", "/dev/zero", ".", "..", "/", "a.jpg\0", "a.jpg/"])
)
def test_images_of_any_name(image, ask):
    line = as_line({**LINE, "image": image})
    are_answered([line, as_line(LINE)], ask(line, as_line(LINE)))


@pytest.mark.parametrize("count", [1, 40, MOST_POINTS])
def test_many_points_are_answered_up_to_the_limit(count, ask):
    points = np.random.default_rng(0).uniform(0, 23, (count, 2)).tolist()
    (answer,) = ask(as_line({"image": "a.jpg", "points": points}))
    assert len(answer["prompt"]["points"]) == count
    (refused,) = ask(as_line({"image": "a.jpg", "points": points * (MOST_POINTS // count + 1)}))
    assert f"at most {MOST_POINTS:,} points" in refused["error"]


def test_many_lines_about_one_image_have_a_file_each(ask, tmp_path):
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 10, (100, 2))
    boxes = np.hstack([corners, corners + rng.uniform(1, 12, (100, 2))]).tolist()
    lines = [as_line({"image": "a.jpg", "box": box}) for box in boxes]
    answers = ask(*lines, source=tmp_path / "lines.jsonl")
    assert [one["line"] for one in answers] == list(range(1, 101))
    assert len({one["mask"] for one in answers}) == 100


@pytest.mark.parametrize("end", [b"\n", b""])
def test_a_line_without_end_is_refused_and_the_next_one_answered(end, ask, tmp_path):
    endless = b'{"image": "' + b"a" * (3 * LONGEST_LINE) + b'"}'
    for source in ("-", tmp_path / "lines.jsonl"):
        answers = ask(endless, as_line(LINE), endless, source=source)
        assert [one["line"] for one in answers] == [1, 2, 3]
        assert "error" not in answers[1]
        assert all("longer than" in answers[place]["error"] for place in (0, 2))


@cases(150)
@given(text=TEXTS | st.lists(NUMBERS.map(str) | TEXTS, max_size=5).map(",".join))
def test_points_and_boxes_from_the_shell(text):
    for parse, count in ((parse_point, 2), (parse_box, 4)):
        numbers = answer_or_refusal(lambda parse=parse: parse(text), PromptError)
        if numbers is not None:
            assert len(numbers) == count
            assert all(math.isfinite(number) for number in numbers)
            assert numbers == tuple(map(float, text.split(",")))


@cases(150)
@given(
    points=st.lists(
        st.tuples(*[st.floats(-(2**30), 2**30, width=32)] * 2).map(list), min_size=1, max_size=5
    ),
    image=st.text(min_size=1).filter(lambda name: "\0" not in name),
    corner=st.tuples(st.floats(0, 99, width=32), st.floats(0, 99, width=32)),
)
def test_a_line_that_is_written_is_read_as_the_same(points, image, corner):
    x, y = corner
    line = {"image": image, "points": points, "box": [x, y, x + 1, y + 1.5]}
    once = answer_or_refusal(lambda: parse_prompt_line(json.dumps(line)), PromptError)
    if once is None:
        return
    again = parse_prompt_line(format_prompt_line(once.image, once.prompt))
    assert again.image == once.image
    assert np.array_equal(again.prompt.points, once.prompt.points)
    assert np.array_equal(again.prompt.labels, once.prompt.labels)
    assert np.array_equal(again.prompt.box, once.prompt.box)
