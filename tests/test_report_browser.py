"""The report's page in a real browser: nothing is fetched, and it fits a phone.

Needs Chromium; skipped where it is missing, but failing there in `make browser-test`.
"""

import os
from pathlib import Path

import pytest
from browser import Browser, find_chromium
from tiny_models import build_adapter

from samtune.curves import Curves, Start
from samtune.dataset import load_dataset
from samtune.embeddings import EmbeddingCache
from samtune.predictor import Predictor
from samtune.report import Source, make_report
from samtune.report_page import render
from samtune.stages import Stages

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def page(toy_folder, tiny_sam, tmp_path_factory):
    if find_chromium() is None and os.environ.get("SAMTUNE_BROWSER_TESTS"):
        pytest.fail("chromium is not installed")
    if find_chromium() is None:
        pytest.skip("chromium is not installed")
    adapter = build_adapter(tiny_sam, refines=False)
    sources = [
        Source("plain SAM", Predictor(tiny_sam)),
        Source("a_rather_long_name", Predictor(tiny_sam, adapter), Path("x.safetensors")),
    ]
    steps = Start(0.1, (2, 4, 6), (0.9, 0.7, 0.5), (1e-3, 5e-4, 1e-4))
    curves = Curves(steps, (), ((3, 0.5), (6, 0.75)), 0.25, "finished")
    folder = tmp_path_factory.mktemp("page")
    made = make_report(
        load_dataset(toy_folder).subset([0, 1]),
        sources,
        EmbeddingCache(folder / "embeddings"),
        "tiny",
        stages=Stages(),
        curves=curves,
    )
    (folder / "report.html").write_text(render(made), encoding="utf-8")
    return folder / "report.html"


@pytest.fixture
def browser(tmp_path):
    with Browser(tmp_path) as opened:
        yield opened


def opened(browser, page):
    browser.open(page.as_uri())
    browser.wait_for("document.readyState === 'complete' && document.images.length")


def test_nothing_but_the_page_itself_is_asked_for(page, browser):
    opened(browser, page)
    asked = [address for address in browser.requested if not address.startswith("data:")]
    assert asked == [page.as_uri()]
    assert browser.problems == []
    broken = "[...document.images].filter((image) => !image.naturalWidth).length"
    assert browser.run(broken) == 0


@pytest.mark.parametrize("width", [360, 1280])
def test_only_tables_and_charts_scroll_sideways(page, browser, width):
    browser.show_as(width, 800)
    opened(browser, page)
    browser.run("document.querySelectorAll('details').forEach((one) => { one.open = true })")
    assert browser.run("document.documentElement.scrollWidth") <= width


def test_text_is_legible_on_dark_and_on_light(page, browser):
    brightness = """[...document.querySelectorAll("p, td, th, summary, svg text")].map((one) => {
        const style = getComputedStyle(one);
        const colour = one.closest("svg") ? style.fill : style.color;
        return Math.max(...colour.match(/\\d+/g).slice(0, 3).map(Number));
    })"""
    paper = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]"
    for dark in (False, True):
        browser.show_as(1000, 800, dark=dark)
        opened(browser, page)
        behind = browser.run(paper)
        assert (behind < 128) == dark
        assert all(abs(behind - found) > 80 for found in browser.run(brightness))
