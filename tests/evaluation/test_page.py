"""report.html: what it shows, that it loads nothing else, and what it does without matplotlib or with odd names."""

import base64
import io
import re
import shutil
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from restore_diff.evaluation.evaluator import Evaluator, Scorer
from restore_diff.evaluation.page import write_page, write_sweep
from restore_diff.evaluation.pictures import choose_examples, show
from restore_diff.evaluation.report import Report

CHROMIUM = shutil.which("chromium")


class Page(HTMLParser):
    """Tags with their attributes, and the text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += f"{data.strip()} "

    def sources(self) -> list[str]:
        return [str(attributes["src"]) for tag, attributes in self.tags if tag == "img"]


def decoded(source: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))))


@pytest.fixture
def scored(pairs):
    """A report of four pairs, darkened by the restorer, and its examples."""
    evaluator = Evaluator(lambda degraded, names, seed: degraded * 0.5, Scorer(("rgb",)))
    report = Report("rain", evaluator.evaluate(pairs), ("rgb",), None, "weights of a test")
    examples = choose_examples(report.rows, "psnr_rgb")
    return report, [show(example, pairs, evaluator.restored) for example in examples]


def test_the_page_has_the_table_and_the_images_of_each_example(scored, pairs, tmp_path):
    report, examples = scored
    write_page(tmp_path, report, examples)
    page = Page((tmp_path / "report.html").read_text())
    psnr = report.summary["psnr_rgb"]
    for number in (psnr.mean, *psnr.ci95, psnr.median, psnr.min, psnr.max, report.summary["psnr_rgb_gain"].mean):
        assert f"{number:.2f}" in page.text
    assert all(text in page.text for text in ("rain", "weights of a test", *(e.example.caption for e in examples)))
    assert sum(tag == "input" for tag, _ in page.tags) == 2 * len(examples)
    first = pairs[examples[0].example.position]
    degraded, restored, clean, *_ = map(decoded, page.sources()[:5])
    for image, expected in ((degraded, first.degraded), (restored, first.degraded * 0.5), (clean, first.clean)):
        assert image.shape == (*first.clean.shape[1:], 3)
        assert abs(image / 255 - expected.permute(1, 2, 0).numpy()).mean() < 0.03  # JPEG


def test_the_page_loads_nothing_else(scored, tmp_path):
    write_page(tmp_path, *scored)
    html = (tmp_path / "report.html").read_text()
    page = Page(html)
    assert all(source.startswith("data:image/") for source in page.sources())
    assert not {tag for tag, _ in page.tags} & {"link", "iframe", "object", "video"}
    assert not re.search(r"https?:|//|@import|url\(", re.sub(r"data:image/\w+;base64,[\w+/=]+", "", html))
    assert any("default-src 'none'" in str(attributes.get("content")) for _, attributes in page.tags)


@pytest.mark.long
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_the_slider_moves_by_mouse_and_keyboard_on_a_narrow_screen(scored, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api")
    write_page(tmp_path, *scored)
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 400, "height": 800})
        faults: list[str] = []
        page.on("console", lambda message: faults.append(message.text))
        page.goto((tmp_path / "report.html").as_uri())
        slider = page.locator(".slider").first
        box = slider.bounding_box()
        page.mouse.click(box["x"] + 0.2 * box["width"], box["y"] + 5)
        at = float(slider.locator("input").input_value())
        page.keyboard.press("ArrowRight")
        assert at == pytest.approx(20, abs=3)
        assert (
            slider.locator("img")
            .last.evaluate("image => getComputedStyle(image).clipPath")
            .endswith(f" {at + 0.5:g}%)")
        )
        assert page.evaluate("document.documentElement.scrollWidth") == 400
        assert faults == []
        browser.close()


def test_a_file_name_cannot_add_to_the_page(pairs, tmp_path):
    name = '<script>alert("x")</script>\udcff'
    pairs[0] = pairs[0]._replace(name=name)
    evaluator = Evaluator(lambda degraded, names, seed: degraded, Scorer(("rgb",)))
    report = Report(name, evaluator.evaluate(pairs[:1]), ("rgb",))
    write_page(tmp_path, report, [show(e, pairs, evaluator.restored) for e in choose_examples(report.rows, "psnr_rgb")])
    page = Page((tmp_path / "report.html").read_text("utf-8"))
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert '<script>alert("x")</script>\\udcff' in page.text


def test_finished_images_are_compared_with_the_clean_ones(row, pairs, tmp_path):
    rows = [row(pair.name, psnr_rgb=30.0 + i) for i, pair in enumerate(pairs)]
    levels = {pair.name: (pair.degraded * 255).round().byte() for pair in pairs}
    shown = [show(example, pairs, lambda pair, _: levels[pair.name]) for example in choose_examples(rows, "psnr_rgb")]
    write_page(tmp_path, Report("x", rows, ("rgb",)), shown)
    page = Page((tmp_path / "report.html").read_text())
    assert "restored | clean" in page.text and "degraded" not in page.text
    assert len(page.sources()) == 3 * len(pairs)


def gains(row, num: int) -> Report:
    return Report("x", [row(f"{i}", psnr_rgb=30.0 + i, psnr_rgb_input=20.0) for i in range(num)], ("rgb",))


def test_the_gains_of_five_images_or_more_are_plotted(row, tmp_path):
    for num, num_plots in ((4, 0), (5, 1)):
        write_page(tmp_path, gains(row, num), [])
        assert len(Page((tmp_path / "report.html").read_text()).sources()) == num_plots


def test_the_page_of_a_sweep_has_the_plot_and_links_to_each_report(row, tmp_path):
    write_sweep(tmp_path, {1: gains(row, 2), 10: gains(row, 3)})
    page = Page((tmp_path / "report.html").read_text())
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert links == ["steps_1/report.html", "steps_10/report.html"]
    assert "30.50" in page.text and "31.00" in page.text
    assert decoded(page.sources()[0]).shape[1] == 1000


def test_without_matplotlib_the_page_names_what_to_install(row, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    for write in (lambda: write_page(tmp_path, gains(row, 5), []), lambda: write_sweep(tmp_path, {1: gains(row, 5)})):
        write()
        page = Page((tmp_path / "report.html").read_text())
        assert page.text.count('pip install "restore_diff[plots]"') == 1 and page.sources() == []
        assert "32.00" in page.text
