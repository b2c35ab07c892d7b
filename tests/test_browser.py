"""The page of `export --to web` in a real browser: what it shows, and that it is samtune's mask.

Needs Chromium and npm; skipped where one is missing, but failing there in `make browser-test`.
"""

import functools
import os
import shutil
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from browser import Browser, find_chromium
from command import photo
from PIL import Image
from tiny_models import build_adapter, build_tiny_sam

from samtune.export_web import export_web
from samtune.images import read_image
from samtune.metrics import iou
from samtune.parity import Question, drawn_questions
from samtune.predictor import Predictor
from samtune.prompts import Prompt
from samtune.sam import load_sam
from samtune.web_runtime import runtime_archive

pytestmark = pytest.mark.slow

ANSWERED = (  # while an answer is awaited, there is no mask to save
    "document.querySelector('#status').textContent.includes('score')"
    " && !document.querySelector('#plain button').hidden"
    " && !document.querySelector('#adapter button').hidden"
)


class Site:
    """A folder behind a server of static files, on a port of its own."""

    def __init__(self, folder):
        class Quiet(SimpleHTTPRequestHandler):
            def log_message(self, *arguments):
                pass

        handler = functools.partial(Quiet, directory=str(folder))
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture(scope="module", autouse=True)
def what_is_needed():
    tools = {"chromium": find_chromium(), "npm, which brings onnxruntime-web,": shutil.which("npm")}
    for name, found in tools.items():
        if found is None and os.environ.get("SAMTUNE_BROWSER_TESTS"):
            pytest.fail(f"{name} is not installed")
        if found is None:
            pytest.skip(f"{name} is not installed")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A small random model with its page, and the model."""
    sam = build_tiny_sam()
    adapter = build_adapter(sam)
    folder = tmp_path_factory.mktemp("site")
    questions = [Question(photo(), Prompt.of(points=[(40, 20)]))]
    export_web(sam, adapter, "toys", folder, questions, runtime_archive(lambda *_: None))
    return folder, sam, adapter


@pytest.fixture
def browser(tmp_path):
    with Browser(tmp_path) as opened:
        yield opened


@pytest.fixture
def serve():
    sites = []

    def of(folder):
        sites.append(Site(folder))
        return sites[-1].address

    yield of
    for site in sites:
        site.close()


def open_picture(browser, address, path):
    browser.open(address)
    browser.wait_for("'ready' in (document.body?.dataset ?? {})")
    browser.choose_file("#file", path)
    browser.wait_for("document.querySelector('#status').textContent.includes('encoded')")


def click(browser, name, x, y, **how):
    """Click on a pixel of the picture, as it lies on the screen."""
    left, top, across, down = browser.run(f"""(() => {{
        const canvas = document.querySelector("#{name} canvas");
        canvas.scrollIntoView({{ block: "nearest" }});
        const box = canvas.getBoundingClientRect();
        return [box.left + canvas.clientLeft, box.top + canvas.clientTop,
                canvas.clientWidth / canvas.width, canvas.clientHeight / canvas.height];
    }})()""")
    browser.click(left + (x + 0.5) * across, top + (y + 0.5) * down, **how)


def saved_mask(browser, name, stem):
    """What the button "Save mask" writes."""
    path = browser.new_downloads() / f"{stem}.{name}.mask.png"
    browser.run(f"document.querySelector('#{name} button').click()")
    browser.wait_until(path.is_file, "the saved mask")
    return np.asarray(Image.open(path).convert("L"))


def masks_of(sam, adapter, image, prompt):
    embedding = sam.encode_image(image)
    return {
        name: Predictor(sam, plugged).predict(embedding, [prompt])[0].mask
        for name, plugged in (("plain", None), ("adapter", adapter))
    }


def build_mild_adapter(sam):
    """One that changes an object's mask a little, and not into nothing, with the real weights."""
    adapter = build_adapter(sam)
    for parameter in adapter.learned.plm.final_norm.parameters():
        parameter *= 0.1
    for parameter in adapter.learned.selector.parameters():
        parameter.zero_()
    return adapter


def test_clicks_on_a_picture_give_samtune_s_masks_with_the_real_weights(
    mobile_sam_path, browser, serve, tmp_path
):
    sam = load_sam(mobile_sam_path)
    adapter = build_mild_adapter(sam)
    runtime = runtime_archive(lambda *_: None)
    questions = drawn_questions()
    export_web(sam, adapter, "drawn", tmp_path / "site", questions[:1], runtime)
    Image.fromarray(questions[0].image).save(tmp_path / "drawing.png")
    address = serve(tmp_path / "site")
    open_picture(browser, address, tmp_path / "drawing.png")

    click(browser, "adapter", 200, 180)
    browser.wait_for(ANSWERED)
    expected = masks_of(sam, adapter, questions[0].image, Prompt.of(points=[(200, 180)]))
    for name, mask in expected.items():
        found = saved_mask(browser, name, "drawing")
        assert set(np.unique(found)) <= {0, 255}
        assert iou(found > 0, mask) >= 0.98
    assert 0 < expected["plain"].mean() < 0.5  # the ellipse, and not everything or nothing
    assert 0.5 < iou(expected["plain"], expected["adapter"]) < 0.97  # which the other panel is not
    # Nothing came from elsewhere: neither the page nor its worker asked for anything.
    assert len(browser.requested) > 10
    assert all(url.startswith((address, "blob:", "data:")) for url in browser.requested)
    assert browser.problems == []


def test_several_points_undo_and_the_keyboard(exported, browser, serve, tmp_path):
    folder, sam, adapter = exported
    Image.fromarray(photo((150, 97), seed=3)).save(tmp_path / "tall.png")
    open_picture(browser, serve(folder), tmp_path / "tall.png")
    assert browser.text("h1") == "Plain SAM and toys"

    def agrees(prompt):
        browser.wait_for(ANSWERED)
        image = read_image(tmp_path / "tall.png")
        expected = masks_of(sam, adapter, image, prompt)
        return all(
            iou(saved_mask(browser, name, "tall") > 0, mask) >= 0.98
            for name, mask in expected.items()
        )

    click(browser, "plain", 30, 40)
    assert agrees(Prompt.of(points=[(30, 40)]))
    click(browser, "adapter", 80, 120, shift=True)
    assert agrees(Prompt.of(points=[(30, 40)], negative_points=[(80, 120)]))
    click(browser, "adapter", 60, 70)
    points = Prompt(np.array([[30, 40], [80, 120], [60, 70]], np.float32), np.array([1, 0, 1]))
    assert agrees(points)
    browser.press("Backspace")
    assert agrees(Prompt.of(points=[(30, 40)], negative_points=[(80, 120)]))
    browser.run("document.querySelector('#undo').click()")
    assert agrees(Prompt.of(points=[(30, 40)]))
    browser.press("Escape")
    assert browser.text("#plain output") == ""
    assert browser.run("document.querySelector('#undo').disabled") is True

    # Without a mouse: the cross starts in the middle, arrows move it, Enter sets a point.
    browser.run("document.querySelector('#clear').focus()")
    browser.run("document.querySelector('#plain canvas').focus({ focusVisible: true })")
    for _ in range(4):
        browser.press("ArrowLeft", shift=True)
    browser.press("ArrowDown")
    browser.press("Enter")
    assert agrees(Prompt.of(points=[(48 - 4, 75 + 2)]))
    assert browser.problems == []


def test_points_on_the_background_alone_are_explained(exported, browser, serve, tmp_path):
    Image.fromarray(photo()).save(tmp_path / "a.png")
    open_picture(browser, serve(exported[0]), tmp_path / "a.png")
    click(browser, "plain", 30, 20, button="right")
    browser.wait_for("document.querySelector('#status').textContent.includes('background alone')")
    click(browser, "plain", 30, 20)
    browser.wait_for(ANSWERED)


def test_a_turned_photo_with_transparency_is_read_as_samtune_reads_it(
    exported, browser, serve, tmp_path
):
    folder, sam, adapter = exported
    pixels = np.dstack([photo((70, 100), seed=5), np.full((70, 100), 255, np.uint8)])
    pixels[20:40, 30:60, 3] = 0
    turned = Image.Exif()
    turned[274] = 6  # to be turned by 90° clockwise
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=turned)
    image = read_image(tmp_path / "turned.png")
    assert image.shape == (100, 70, 3)
    open_picture(browser, serve(folder), tmp_path / "turned.png")
    assert "70 × 100 px" in browser.text("#status")
    click(browser, "adapter", 50, 30)
    browser.wait_for(ANSWERED)
    expected = masks_of(sam, adapter, image, Prompt.of(points=[(50, 30)]))
    for name, mask in expected.items():
        assert iou(saved_mask(browser, name, "turned") > 0, mask) >= 0.98


@pytest.mark.parametrize(
    ("break_it", "named"),
    [
        (lambda site: (site / "plain.onnx").unlink(), "plain.onnx cannot be loaded (404"),
        (lambda site: (site / "plain.onnx").write_bytes(b"half"), "plain.onnx is not as long"),
        (lambda site: (site / "ort.js").unlink(), "program cannot be loaded"),
    ],
    ids=["a model is missing", "a model is cut off", "the runtime is missing"],
)
def test_what_cannot_be_loaded_is_said_on_the_page(
    exported, browser, serve, tmp_path, break_it, named
):
    site = shutil.copytree(exported[0], tmp_path / "site")
    break_it(site)
    browser.open(serve(site))
    browser.wait_for("document.querySelector('#status')?.className === 'failed'")
    assert named in browser.text("#status")


def test_a_file_that_is_no_picture_is_said_and_the_next_one_opens(
    exported, browser, serve, tmp_path
):
    (tmp_path / "notes.png").write_text("not a photo")
    Image.fromarray(photo()).save(tmp_path / "a.png")
    browser.open(serve(exported[0]))
    browser.wait_for("'ready' in (document.body?.dataset ?? {})")
    browser.choose_file("#file", tmp_path / "notes.png")
    browser.wait_for("document.querySelector('#status').className === 'failed'")
    assert browser.text("#status").startswith("notes.png is no picture")
    browser.choose_file("#file", tmp_path / "a.png")
    browser.wait_for("document.querySelector('#status').textContent.includes('encoded')")
    assert browser.run("document.querySelector('#status').className") == ""


def test_opened_as_a_file_the_page_says_that_it_needs_a_server(exported, browser):
    browser.open((exported[0] / "index.html").as_uri())
    browser.wait_for("document.querySelector('#status')")
    assert "python3 -m http.server" in browser.text("#status")
