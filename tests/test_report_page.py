"""The page: whole, self-contained, and with the report's own numbers."""

import copy
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from tiny_models import build_adapter
from upstream import sharpen

from samtune.dataset import load_dataset
from samtune.embeddings import EmbeddingCache
from samtune.predictor import Predictor
from samtune.presence import PresenceHead
from samtune.report import PROMPTS, Source, make_report
from samtune.report_page import render
from samtune.stages import Stages

NAME = "<b>a & 'b'"  # a file may be called so
EMPTY = {"meta", "img", "line", "circle", "polyline", "br"}  # elements without an end


class Page(HTMLParser):
    """Reads a page as a browser does; fails on elements that do not close."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.words = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def report(toy_folder, tiny_sam, tmp_path_factory):
    file = tmp_path_factory.mktemp("adapters") / "x.safetensors"
    adapter = build_adapter(tiny_sam, refines=False)  # refining noise takes long
    adapter.learned.presence = sharpen(PresenceHead(), seed=3).requires_grad_(False)
    adapter.save(file)
    sources = [
        Source("plain SAM", Predictor(tiny_sam)),
        Source(NAME, Predictor(tiny_sam, adapter), file),
    ]
    cache = EmbeddingCache(tmp_path_factory.mktemp("embeddings"))
    dataset = load_dataset(toy_folder).subset(range(4))
    return make_report(dataset, sources, cache, "tiny", stages=Stages())


@pytest.fixture(scope="module")
def page(report):
    return Page(render(report))


def test_every_element_is_closed_in_its_order(page):
    assert page.open == []
    assert sum(tag == "h1" for tag, _ in page.elements) == 1


def test_nothing_is_fetched_and_no_script_runs(page, report):
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "iframe", "object", "base"}
    for tag, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "srcset", "action", "data"):
            assert attributes.get(name, "data:").startswith("data:"), tag
    text = render(report)
    assert "url(" not in text
    assert "@import" not in text
    assert "://" not in text


def test_names_are_shown_as_they_are_and_never_as_markup(page):
    assert NAME in page.text
    assert sum(attributes.get("alt", "").startswith(NAME) for _, attributes in page.elements) == 4


def test_every_score_of_the_numbers_is_on_the_page(page, report):
    for source in report.numbers["sources"]:
        for kind in PROMPTS:
            found = source["prompts"][kind]
            assert found["refined_iou"] is None
            for key in ("iou", "oracle_iou", "boundary_iou"):
                assert f"{100 * found[key]:.1f}" in page.text
            low, high = found["interval"]
            assert f"{100 * low:.1f} to {100 * high:.1f}" in page.text
    for row in report.numbers["images"]:
        cells = " ".join(f"{100 * value:.1f}" for value in row["iou"])
        assert f"{row['image']} {row['objects']} {cells}" in page.text


def test_pictures_and_maps_are_all_there(page, report):
    pictures = [attributes for tag, attributes in page.elements if tag == "img"]
    views = sum(len(picture.views) for picture in (*report.worst, *report.best))
    assert len(pictures) == views + len(report.maps)
    assert all(picture["alt"] for picture in pictures)


def test_dots_of_the_chart_lie_where_their_scores_are(page, report):
    dots = [float(attributes["cx"]) for tag, attributes in page.elements if tag == "circle"]
    scores = [
        source["prompts"][kind]["iou"] for kind in PROMPTS for source in report.numbers["sources"]
    ]
    assert len(dots) == len(scores) == 12
    slope, start = np.polyfit(scores, dots, 1)
    np.testing.assert_allclose(np.array(scores) * slope + start, dots, atol=0.1)
    ticks = {
        page_text: float(attributes["x1"])
        for page_text, attributes in zip(
            (0, 20, 40, 60, 80, 100),
            (a for tag, a in page.elements if tag == "line" and a.get("class") == "grid"),
            strict=True,
        )
    }
    assert start == pytest.approx(ticks[0], abs=0.5)
    assert start + slope == pytest.approx(ticks[100], abs=0.5)


def test_dark_and_light_are_the_reader_s_choice(report):
    text = render(report)
    assert "prefers-color-scheme: dark" in text
    assert "color-scheme: light dark" in text
    assert '<meta name="viewport"' in text


@pytest.mark.parametrize(("seen", "words"), [(4, "all of these 4 images"), (3, "3 of these 4")])
def test_an_adapter_that_saw_these_images_gets_a_warning(report, page, seen, words):
    assert "seen in training" not in page.text
    about = [{**one, "images_seen_in_training": seen} for one in report.numbers["adapters"]]
    text = Page(render(replace(report, numbers={**report.numbers, "adapters": about}))).text
    assert "seen in training" in text
    assert f"learned from {words}" in text


def test_clicks_beside_the_objects_have_a_table(report, page):
    plain, _, adapted = (source["beside"] for source in report.numbers["sources"])
    assert f"{adapted['clicks']} clicks on places" in page.text
    shares = ("false_responses", "false_alarms", "false_and_present", "missed")
    cells = " ".join(f"{100 * adapted[name]:.1f}" for name in shares)
    assert f"{NAME} {cells}" in page.text
    assert f"plain SAM {100 * plain['false_responses']:.1f} – – –" in page.text
    # Where objects fill all images, nothing is beside them.
    nowhere = [{**source, "beside": None} for source in report.numbers["sources"]]
    changed = replace(report, numbers={**report.numbers, "sources": nowhere})
    assert "Clicks beside" not in Page(render(changed)).text


def test_images_without_an_object_have_a_column_where_there_are_any(report, page):
    assert "empty images" not in page.text
    sources = [
        {**source, "beside": beside and {**beside, "empty_images": 4, "alarmed_images": alarmed}}
        for source, alarmed in zip(report.numbers["sources"], (None, None, 0.25), strict=True)
        for beside in [source["beside"]]
    ]
    text = Page(render(replace(report, numbers={**report.numbers, "sources": sources}))).text
    assert "objects missed empty images" in text
    missed = 100 * sources[2]["beside"]["missed"]
    assert f" {missed:.1f} 25.0 " in text
    assert "of 4 images without an object" in text


def test_missed_objects_are_listed_the_surest_first(report):
    objects = copy.deepcopy(report.numbers["objects"])
    for thing, presence in zip(objects, (0.4, 0.6, 0.1, 0.5), strict=True):
        thing["prompts"]["center"][0]["scores"][2]["presence"] = presence
    text = Page(render(replace(report, numbers={**report.numbers, "objects": objects}))).text
    surest, other = (
        f"{thing['image']}, at x {thing['bbox'][0]}, y {thing['bbox'][1]}: presence"
        for thing in (objects[2], objects[0])
    )
    assert f"{NAME} misses 2 objects {surest} 10.0 {other} 40.0" in text
    assert "plain SAM misses" not in text


def test_pictures_tell_the_presence(report, page):
    for picture in (*report.worst, *report.best):
        before, after = picture.views
        words = f"plain SAM {100 * before.iou:.1f} {NAME} {100 * after.iou:.1f} presence "
        assert f"{words}{100 * after.presence:.1f}" in page.text


def test_the_class_and_what_was_left_out_are_told(report, page):
    assert "left out" not in page.text
    data = {**report.numbers["data"], "class_id": 4, "left_out": ["a.png: empty mask"]}
    text = Page(render(replace(report, numbers={**report.numbers, "data": data}))).text
    assert "class 4" in text
    assert "left out: 1 file" in text
    assert "a.png: empty mask" in text


def test_plain_sam_alone_makes_a_page_too(toy_folder, tiny_sam):
    dataset = load_dataset(toy_folder).subset([0])
    sources = [Source("plain SAM", Predictor(tiny_sam))]
    alone = Page(render(make_report(dataset, sources, EmbeddingCache(), "t", stages=Stages())))
    assert alone.open == []
    assert "SAM-F is left out" in alone.text
    assert "What was trained" not in alone.text
