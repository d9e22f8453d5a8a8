"""restore-diff app: the functions of the page, and the page in headless Chromium (`pytest -m long`).

SCREENSHOTS=docs/images pytest -m long tests/commands/test_app.py also writes the pictures of docs/app.md.
"""

import contextlib
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from restore_diff.commands import app as command
from restore_diff.commands import restore
from restore_diff.errors import UserError
from restore_diff.settings import RainConfig
from restore_diff.weather.rain import render_rain

LABELS = ("none", "rain", "haze", "snow", "raindrop")
needs_gradio = pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="gradio is not installed")
CHROMIUM = shutil.which("chromium")
has_browser = CHROMIUM and importlib.util.find_spec("playwright") and importlib.util.find_spec("gradio")
needs_browser = pytest.mark.skipif(not has_browser, reason="needs gradio, playwright and chromium")


def write_photograph(path: Path, clean: np.ndarray, seed: int = 5) -> Path:
    """A photograph in rendered rain, with EXIF."""
    degraded = render_rain(torch.from_numpy(clean.copy()).permute(2, 0, 1)[None] / 255, RainConfig(), [seed])
    exif = Image.Exif()
    exif[0x0110] = "Camera 5"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((degraded[0].permute(1, 2, 0) * 255).round().byte().numpy()).save(path, exif=exif, quality=90)
    return path


def restored_by_command(folder: Path, *photographs: Path) -> None:
    names = ["-i", *map(str, photographs), "-o", str(folder), "--ckpt", "shipped", "--device", "cpu", "-q"]
    assert restore.main([*names, "--quality", "balanced", "--uncertainty", "--n-samples", "4"]) == 0


def write_run(folder: Path) -> Path:
    """The files of a run that the page reads."""
    (folder / "samples").mkdir(parents=True)
    (folder / "test/photos").mkdir(parents=True)
    (folder / "status.json").write_text(json.dumps({"state": "finished", "step": 90, "reason": ""}))
    lines = [{"step": step, "loss": 1 / step} for step in range(10, 91, 10)]
    lines += [{"step": step, "validation/psnr": 20 + step / 20} for step in (30, 60, 90)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 9')
    clean = data.chelsea()[:96, 100:228]
    degraded = np.asarray(Image.open(write_photograph(folder / "rainy.png", clean)))
    for step in (30, 60, 90):
        restored = (step / 100 * clean + (1 - step / 100) * degraded).astype(np.uint8)
        panel = np.concatenate([degraded, restored, clean], axis=1)
        Image.fromarray(panel).save(folder / f"samples/step_{step:06d}.png")
    (folder / "test/photos/table.md").write_text("|  | images | PSNR |\n| --- | --- | --- |\n| photos | 3 | 24.31 |\n")
    return folder


# Without a browser.


def test_help_names_the_address_and_the_limits(capsys):
    with pytest.raises(SystemExit) as ended:
        command.main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert all(word in text for word in ("127.0.0.1", "--max-pixels", "--max-mib", "without a"))


def test_without_gradio_one_line_names_the_extra(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "safehttpx", None)
    assert command.main(["--ckpt", "shipped"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "pip install 'restore_diff[app]'" in error


@pytest.fixture
def service(tmp_path):
    pytest.importorskip("gradio")
    from restore_diff.app import Service

    (tmp_path / "app").mkdir()
    return Service(Path("shipped"), "cpu", 100_000, tmp_path / "app")


@needs_gradio
def test_results_equal_those_of_restore_py_with_progress_and_messages(service, tmp_path):
    photograph = write_photograph(tmp_path / "my photo #1.png", data.astronaut()[:192, :160])
    (tmp_path / "broken.png").write_bytes(photograph.read_bytes()[:500])
    Image.new("RGB", (400, 300)).save(tmp_path / "large.png")
    uploads = [(path, path.name) for path in sorted(tmp_path.glob("*.png"))]
    shares = []
    found = list(service.restore(uploads, "balanced", "auto", 4, lambda share, _: shares.append(share)))
    broken, large, restored = found
    assert "broken.png: damaged or truncated" in broken
    assert "large.png: 400x300 = 120,000 pixels, the limit is 100,000" in large
    restored_by_command(tmp_path / "reference", photograph)
    assert restored.output.read_bytes() == (tmp_path / "reference" / photograph.name).read_bytes()
    assert re.fullmatch(r"rain detected \(rain \d\d%, .*\)", restored.weather)
    assert shares == sorted(shares)
    assert shares[-1] == 1
    highlighted, after = (np.asarray(Image.open(path)) for path in (restored.uncertain, restored.after))
    assert highlighted.shape == after.shape == (192, 160, 3)
    assert (highlighted.astype(int) - after)[..., 1].mean() < 0  # magenta has no green


@needs_gradio
@pytest.mark.parametrize("values", [("x", "auto", 0), ("fast", "fog", 0), ("fast", "auto", 10**9), ("fast", "rain", 3)])
def test_values_that_the_page_does_not_offer_are_refused(service, values, tmp_path):
    with pytest.raises(UserError):
        next(service.restore([], *values, lambda *_: None))
    assert list((tmp_path / "app").iterdir()) == []


@needs_gradio
def test_names_from_a_browser_stay_in_the_folder_and_never_collide(tmp_path):
    from restore_diff.app import place

    (tmp_path / "upload").write_bytes(b"")
    names = ["../../a.png", "C:\\x\\A.PNG", "..", "", "/etc/a.gif", "b.jpg"]
    place([(tmp_path / "upload", name) for name in names], tmp_path / "in")
    placed = {path.relative_to(tmp_path / "in").as_posix() for path in (tmp_path / "in").rglob("*") if path.is_file()}
    assert placed == {"a.png", "2/A.PNG", "3/a.gif", "photograph", "2/photograph", "b.jpg"}


@needs_gradio
def test_weather_in_words_states_the_decision_and_each_confidence():
    from restore_diff.app import weather_in_words

    def words(*confidences: float) -> str:
        return weather_in_words(torch.tensor([confidences]).logit(), LABELS)

    assert words(0.02, 0.93, 0.1, 0.05, 0.03) == (
        "rain detected (rain 93%, haze 10%, snow 5%, raindrops on the lens 3%, no weather 2%)"
    )
    assert words(0.9, 0.1, 0.1, 0.1, 0.1).startswith("little or no weather (no weather 90%")
    assert words(0.1, 0.6, 0.6, 0.1, 0.1).startswith("weather not clear, no label used (")


@needs_gradio
def test_old_results_are_removed_and_new_ones_kept(tmp_path):
    from restore_diff.app import KEPT_S, remove_old

    for name, age_s in (("old", KEPT_S + 60), ("new", KEPT_S - 60)):
        (tmp_path / name).mkdir()
        now = (tmp_path / name).stat().st_mtime
        os.utime(tmp_path / name, (now - age_s, now - age_s))
    remove_old(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


@needs_gradio
def test_a_run_is_read_while_its_log_is_being_written(tmp_path):
    from restore_diff.app import curve, run_names, run_pictures, run_text

    run = write_run(tmp_path / "derain")
    (tmp_path / "empty").mkdir()
    assert run_names(tmp_path) == ["derain"]
    assert list(curve(run, "loss")["step"]) == list(range(10, 91, 10))
    assert list(curve(run, "validation/psnr")["psnr"]) == [21.5, 23, 24.5]
    assert run_text(run).startswith("**finished** at step 90")
    assert "| photos | 3 | 24.31 |" in run_text(run)
    assert [caption for _, caption in run_pictures(run)] == ["step 000090", "step 000060", "step 000030"]


# In a browser.


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photographs, their restoration by restore.py, and a run."""
    folder = tmp_path_factory.mktemp("app")
    write_photograph(folder / "cat #1.png", data.chelsea()[:240, :320])
    write_photograph(folder / "coffee.jpg", data.coffee(), seed=6)
    (folder / "broken.jpg").write_bytes((folder / "coffee.jpg").read_bytes()[:3000])
    restored_by_command(folder / "reference", folder / "cat #1.png", folder / "coffee.jpg")
    write_run(folder / "runs/derain")
    return folder


@pytest.fixture(scope="module")
def address(folder):
    """Address of the app, started as a command; its temporary folder is gone at the end."""
    begun = time.monotonic()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    line = f"-m restore_diff app --ckpt shipped --device cpu --port {port} --max-mib 1"
    environment = {**os.environ, "TMPDIR": str(folder), "OMP_NUM_THREADS": "1", "GRADIO_SHARE": "True"}
    process = subprocess.Popen(
        [sys.executable, *line.split()], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    lines = [process.stdout.readline(), process.stdout.readline()]
    assert lines[1].startswith(f"open http://127.0.0.1:{port}/"), lines
    print(f"\napp ready after {time.monotonic() - begun:.1f} s")
    yield f"http://127.0.0.1:{port}/"
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    assert not list(folder.glob("restore-diff-app-*"))


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def user(browser, address):
    """Open the page as a new user, in a window of a size; all requests of the page go to the app."""
    with contextlib.ExitStack() as contexts:
        requests: list[str] = []
        errors: list[str] = []

        def open_page(width: int = 1200, height: int = 800, on_finished: Callable[[Any], object] = lambda _: None):
            context = contexts.enter_context(browser.new_context(viewport={"width": width, "height": height}))
            page = context.new_page()
            page.on("requestfinished", on_finished)
            page.on("request", lambda request: requests.append(request.url))
            page.on("console", lambda message: errors.extend([message.text] if message.type == "error" else []))
            page.goto(address)
            page.get_by_role("button", name="Restore", exact=True).wait_for()
            return page

        yield open_page
        assert len(requests) > 10
        assert [url for url in requests if not url.startswith((address, "data:", "blob:"))] == []
        assert errors == []  # none refused by the content security policy


def upload(page, *paths: Path) -> None:
    with page.expect_response(lambda response: "/upload?" in response.url):
        page.locator("input[type=file]").first.set_input_files(paths)
    page.locator(".file-preview").wait_for()


def start(page) -> None:
    page.get_by_role("button", name="Restore", exact=True).click()


def wait_for(page, number: int) -> None:
    """Wait until that many are restored, and the pictures are shown."""
    page.locator("#messages").get_by_text(f"{number} restored in").wait_for(timeout=60_000)
    page.get_by_test_id("imageslider-image").last.wait_for()


def download(page, button: str, to: Path) -> Path:
    control = page.get_by_role("button", name=button)
    control.and_(page.locator(":enabled")).wait_for(timeout=60_000)
    with page.expect_download() as started:
        control.click()
    started.value.save_as(to / started.value.suggested_filename)
    return to / started.value.suggested_filename


def uncovered(page) -> float:
    """Share of the picture left of the divider, in percent."""
    style = page.get_by_test_id("imageslider-image").last.get_attribute("style")
    return float(re.search(r"inset\(0px 0px 0px ([\d.]+)%", style)[1])


def keep_screenshot(page, name: str) -> None:
    if place := os.environ.get("SCREENSHOTS"):
        path = Path(place) / name
        page.screenshot(path=path, full_page=True)
        with Image.open(path) as picture:
            small = picture.convert("RGB").resize((picture.width * 3 // 4, picture.height * 3 // 4))
        small.quantize(128).save(path, optimize=True)


@needs_browser
@pytest.mark.long
def test_the_page_is_at_most_1_mb(user, folder):
    begun = time.monotonic()
    sizes: list[int] = []
    page = user(on_finished=lambda request: sizes.append(request.sizes()["responseBodySize"]))
    page.wait_for_timeout(1000)
    weight = sum(sizes)
    upload(page, folder / "cat #1.png")
    start(page)
    wait_for(page, 1)
    print(f"page {weight:,} bytes in {len(sizes)} files; open to first photograph {time.monotonic() - begun:.1f} s")
    assert 100_000 < weight < 1_000_000


@needs_browser
@pytest.mark.long
def test_uploads_are_restored_shown_and_downloaded_as_by_restore_py(user, folder, tmp_path):
    page = user()
    upload(page, folder / "cat #1.png", folder / "broken.jpg", folder / "coffee.jpg")
    start(page)
    wait_for(page, 2)
    assert "broken.jpg: damaged or truncated" in page.locator("#messages").inner_text()
    assert "rain detected (rain 9" in page.locator("#weather").inner_text()
    one = download(page, "Download this photograph", tmp_path)
    assert one.read_bytes() == (folder / "reference/coffee.jpg").read_bytes()
    assert Image.open(one).getexif()[0x0110] == "Camera 5"
    with zipfile.ZipFile(download(page, "Download all (.zip)", tmp_path)) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    reference = {p.relative_to(folder / "reference"): p for p in (folder / "reference").rglob("*") if p.is_file()}
    assert contents == {path.as_posix(): file.read_bytes() for path, file in reference.items()}

    plain = page.get_by_test_id("imageslider-image").last.get_attribute("src")
    page.get_by_role("checkbox").check()
    page.locator("[src*='uncertain.jpg']").wait_for()
    page.get_by_role("checkbox").uncheck()
    page.locator(f"[src='{plain}']").wait_for()
    keep_screenshot(page, "app.png")

    before = uncovered(page)
    page.get_by_test_id("slider").scroll_into_view_if_needed()
    handle = page.get_by_test_id("slider").bounding_box()
    x, y = handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 200, y, steps=5)
    page.mouse.up()
    assert 5 < uncovered(page) < before - 10


@needs_browser
@pytest.mark.long
def test_two_users_at_once_get_their_own_results(user, folder, tmp_path):
    pages = {name: user() for name in ("cat #1.png", "coffee.jpg")}
    for name, page in pages.items():
        upload(page, folder / name)
    for page in pages.values():
        start(page)
    for name, page in pages.items():
        wait_for(page, 1)
        found = download(page, "Download this photograph", tmp_path)
        assert found.name == name
        assert found.read_bytes() == (folder / "reference" / name).read_bytes()


@needs_browser
@pytest.mark.long
def test_the_page_works_by_keyboard_alone(user, folder):
    page = user()
    upload(page, folder / "cat #1.png")  # the dialog of the browser itself is out of reach

    def go_to(label: str) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            focused = "(e => e == document.body ? '' : [e.type, e.innerText, e.value].join())(document.activeElement)"
            if label in page.evaluate(focused):  # the body has the focus between two controls, and every label in it
                return
        raise AssertionError(f"no key reaches {label!r}")

    go_to("fast")
    page.keyboard.press("Space")
    assert page.get_by_label("fast", exact=True).is_checked()
    go_to("Restore")
    page.keyboard.press("Enter")
    wait_for(page, 1)
    go_to("range")
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    page.wait_for_function("() => document.querySelector('[style*=\"0px 60\"]') !== null")
    assert round(uncovered(page)) == 60
    go_to("Download this photograph")


@needs_browser
@pytest.mark.long
def test_a_phone_shows_everything_without_scrolling_sideways(user, folder):
    page = user(width=400)
    upload(page, folder / "cat #1.png", folder / "coffee.jpg")
    start(page)
    wait_for(page, 2)
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    for element in (page.get_by_role("button", name="Restore", exact=True), page.locator(".slider-wrap")):
        box = element.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 400


@needs_browser
@pytest.mark.long
def test_a_file_above_the_limit_and_an_empty_start_are_explained(user, folder):
    page = user()
    start(page)
    page.locator("#messages").get_by_text("add photographs first").wait_for()
    (folder / "huge.png").write_bytes(bytes(2**21))
    page.locator("input[type=file]").first.set_input_files(folder / "huge.png")
    page.get_by_text("exceed the maximum allowed size of 1.0 Mb").wait_for()
    assert page.locator(".file-preview").count() == 0


@needs_browser
@pytest.mark.long
def test_the_second_tab_shows_a_run(user):
    page = user()
    page.get_by_role("tab", name="Training runs").click()
    page.get_by_text("finished").wait_for()
    assert page.get_by_role("cell", name="24.31").is_visible()
    assert page.get_by_text("step 000090").is_visible()
    page.locator(".vega-embed").nth(1).wait_for()
    page.wait_for_timeout(500)
    keep_screenshot(page, "app_run.png")


@needs_browser
@pytest.mark.long
def test_only_the_temporary_folder_is_readable_and_no_address_is_fetched(address, folder):
    def status(path: str, **headers: str) -> int:
        try:
            request = urllib.request.Request(address + path, headers=headers)
            with urllib.request.urlopen(request, timeout=10) as reply:
                assert b"frame-ancestors 'none'" in reply.headers["content-security-policy"].encode()
                return reply.status
        except urllib.error.HTTPError as error:
            return error.code

    assert status("") == 200
    assert status("", Host="evil.example:80") == 400
    files = [folder / "coffee.jpg", folder / "runs/derain/status.json", Path("/etc/passwd"), Path(__file__)]
    files += [path / ".." / ".." / "coffee.jpg" for path in folder.glob("restore-diff-app-*/*")]
    assert [status(f"gradio_api/file={path}".replace("#", "%23")) for path in files] == [403] * len(files)
    assert status("gradio_api/file=https://huggingface.co/robots.txt") == 403
    assert status("monitoring") in (403, 404)


@needs_browser
@pytest.mark.long
@pytest.mark.parametrize("meta", [{"meta": {"_type": "gradio.FileData"}}, {}])
def test_a_forged_request_cannot_restore_a_file_of_the_disk(address, folder, meta):
    def post(path: str, body: dict[str, Any]) -> None:
        headers = {"Content-Type": "application/json"}
        urllib.request.urlopen(urllib.request.Request(address + path, json.dumps(body).encode(), headers), timeout=10)

    with urllib.request.urlopen(address + "config", timeout=10) as reply:
        events = json.load(reply)["dependencies"]
    index = next(event["id"] for event in events if event["api_name"] == "restore")
    upload = {"path": str(folder / "coffee.jpg"), "orig_name": "coffee.jpg", **meta}
    values = [[upload], None, "fast", "auto", 0, False]
    post("gradio_api/queue/join", {"data": values, "fn_index": index, "session_hash": "forged", "trigger_id": 1})
    with urllib.request.urlopen(address + "gradio_api/queue/data?session_hash=forged", timeout=30) as stream:
        messages = [json.loads(line[5:]) for line in stream if line.startswith(b"data:")]
    ended = [message for message in messages if message["msg"] == "process_completed"]
    assert [message["success"] for message in ended] == [False]
