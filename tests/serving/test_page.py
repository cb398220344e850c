"""The page in Debian's Chromium: judge a message and a file, at two widths, for everybody.

Run by ``make test-browser``, which fetches axe-core; screenshots go to .cache/screenshots.
"""

import csv
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from servers import Server, server_of

from lastblock import checkpoint
from lastblock.decision import Decision
from lastblock.inference import TextModel

pytestmark = pytest.mark.browser
sync_api = pytest.importorskip("playwright.sync_api")

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
MESSAGE = "WIN CASH or come home for dinner"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)


@pytest.fixture(params=SIZES)
def size(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def page(browser: Any, server: Server, size: str) -> Iterator[Any]:
    """The page, opened; it may call no other host and write no error to the console."""
    width, height = SIZES[size]
    context = browser.new_context(viewport={"width": width, "height": height})
    page = context.new_page()
    page.set_default_timeout(20_000)
    errors: list[str] = []
    hosts: set[str] = set()
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda line: line.type == "error" and errors.append(line.text))
    page.on("request", lambda request: hosts.add(request.url.split("/")[2]))
    page.goto(server.url)
    yield page
    assert errors == []
    assert hosts == {server.url.split("/")[2]}
    context.close()


def judge(page: Any, text: str) -> None:
    page.fill("#message", text)
    page.wait_for_selector("#why:not([hidden])", state="attached")


def faults(page: Any, root: Path) -> list[str]:
    """What axe-core calls serious or critical, each with the elements."""
    page.evaluate((root / ".cache/axe/node_modules/axe-core/axe.min.js").read_text())
    result = page.evaluate("axe.run()")
    assert len(result["passes"]) > 10
    return [
        f"{fault['id']}: {[node['target'] for node in fault['nodes']]}"
        for fault in result["violations"]
        if fault["impact"] in ("serious", "critical")
    ]


def screenshot(page: Any, root: Path, name: str) -> None:
    folder = root / ".cache" / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=folder / f"{name}.png", full_page=True)


def fits(page: Any) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


def test_a_message_is_judged_as_it_is_typed(page: Any, project_root: Path, size: str) -> None:
    sync_api.expect(page.locator("h1")).to_have_text("Ham or spam?")
    page.click("#message")
    page.keyboard.type(MESSAGE, delay=5)
    page.wait_for_selector("#why:not([hidden])")
    label = page.text_content("#label")
    assert label in ("ham", "spam")
    assert re.fullmatch(r"[><]? ?\d+\.\d %, [a-z ]+", page.text_content("#sure"))
    assert page.locator("#bars li").count() == 2
    assert page.text_content("#spoken").startswith(f"{label}, ")
    assert page.locator("#marks").text_content().rstrip("\u200b") == MESSAGE
    assert page.locator("#marks span").count() == 7
    assert page.locator("#words tr").count() == 7
    page.click("#why summary")
    page.wait_for_selector("#history li")
    assert fits(page)
    screenshot(page, project_root, f"message-{size}")


def test_the_marks_lie_below_the_letters(page: Any) -> None:
    judge(page, "one two three four\n\nfive " + "seven " * 60)
    boxes = [page.locator(f"#{name}").bounding_box() for name in ("message", "marks")]
    assert boxes[0] == boxes[1]
    assert page.evaluate("message.scrollHeight <= message.clientHeight")


def test_markup_is_text(page: Any) -> None:
    judge(page, "<img src=x onerror=alert(1)> <b>bold</b>")
    assert page.locator("main img, #marks b, #words b").count() == 0


def test_examples_history_and_forgetting(page: Any) -> None:
    page.locator("#examples button").first.click()
    page.wait_for_selector("#history li")
    text = page.input_value("#message")
    assert text.startswith("Congratulations!")
    page.click("#clear")
    assert page.text_content("#label") == "–" or page.wait_for_selector("[data-state=empty]")
    page.reload()
    page.locator("#history button").first.click()
    assert page.input_value("#message") == text
    page.click("#forget")
    assert page.is_hidden("#history-section")


def test_a_csv_is_judged_sorted_filtered_and_downloaded(
    page: Any, project_root: Path, tmp_path: Path, size: str
) -> None:
    texts = [f'{"WIN, CASH" if i % 2 else "dinner"} "{i}"\nat home' for i in range(130)]
    with (tmp_path / "messages.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["id", "message"], *enumerate(texts)])
    page.set_input_files("#file", tmp_path / "messages.csv")
    page.wait_for_selector("#download:not([hidden])")
    assert page.text_content("#progress-text") == "130 texts judged"
    assert page.locator("#rows tr").count() == 100
    page.click("#more")
    assert page.locator("#rows tr td:first-child").all_text_contents() == texts
    page.click("[data-sort=probability] button")
    assert page.get_attribute("[data-sort=probability]", "aria-sort") == "ascending"
    shown = page.locator("#rows tr td:last-child").all_text_contents()
    numbers = [float(re.sub(r"[^\d.]", "", text)) for text in shown]
    assert numbers == sorted(numbers)
    page.fill("#search", "DINNER")
    assert page.locator("#rows tr").count() == 65
    page.fill("#search", "")
    chip = page.locator("#chips button").nth(1)
    chip.click()
    assert chip.get_attribute("aria-pressed") == "true"
    with page.expect_download() as download:
        page.click("#download")
    assert download.value.suggested_filename == "messages-judged.csv"
    with Path(download.value.path()).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["message"] for row in rows] == texts
    assert {row["predicted_label"] for row in rows} <= {"ham", "spam"}
    assert fits(page)
    screenshot(page, project_root, f"file-{size}")


def test_a_pasted_column_and_a_file_that_is_none(page: Any, tmp_path: Path) -> None:
    page.fill("#lines", 'one, "two"\n\nthree\n')
    page.click("text=Judge these lines")
    page.wait_for_selector("#download:not([hidden])")
    assert page.locator("#rows td:first-child").all_text_contents() == ['one, "two"', "three"]
    (tmp_path / "notes.txt").write_text("hello")
    page.set_input_files("#file", tmp_path / "notes.txt")
    assert "none of: .csv" in page.text_content("#problem")


def test_no_serious_accessibility_fault(page: Any, project_root: Path) -> None:
    judge(page, MESSAGE)
    page.click("#why summary")
    page.fill("#lines", "one\ntwo")
    page.click("text=Judge these lines")
    page.wait_for_selector("#download:not([hidden])")
    page.wait_for_selector("#history li")
    page.wait_for_timeout(500)  # colours fade in
    assert faults(page, project_root) == []
    page.click("#theme")
    page.wait_for_timeout(500)
    assert page.get_attribute("html", "data-theme") == "dark"
    assert faults(page, project_root) == []


def test_the_keyboard_reaches_everything(page: Any) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Shift+Tab")
    reached = set()
    for _ in range(25):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    assert {"file", "lines", "theme", "BUTTON"} <= reached


def test_docs_are_drawn(page: Any, server: Server) -> None:
    page.goto(f"{server.url}/docs")
    page.wait_for_selector(".opblock")
    assert page.locator(".opblock").count() >= 8


def test_a_key_is_asked_for_once_and_models_decide_as_they_were_told(
    browser: Any, model: TextModel, project_root: Path, tmp_path: Path
) -> None:
    (tmp_path / "key").write_text("0123456789abcdef\n")
    decisions = {
        "cautious": Decision(abstain_below=0.9999),
        "several": Decision(labels="several", thresholds=(0.001, 0.999)),
        "strict": Decision(thresholds=(0.999,)),
    }
    for name, decision in decisions.items():
        checkpoint.save(replace(model, decision=decision), tmp_path / "models" / name)
    key = ("--api-key-file", str(tmp_path / "key"))
    with server_of(tmp_path / "models", *key) as server:
        page = browser.new_page()
        page.set_default_timeout(20_000)
        page.goto(server.url)
        page.fill("#key", "0123456789abcdef")
        page.keyboard.press("Enter")
        sync_api.expect(page.locator("h1")).to_have_text("Ham or spam?")
        judge(page, MESSAGE)
        assert page.text_content("#label") == "unsure"
        assert "it takes > 99.9 %" in page.text_content("#sure")
        assert page.locator("#bars .given").count() == 0
        page.select_option("#model", "several")
        sync_api.expect(page.locator("h1")).to_have_text("Which of 2 labels?")
        sync_api.expect(page.locator("#label")).to_have_text("ham")
        assert page.locator("#bars i.marked").count() == 2
        page.select_option("#model", "strict")
        sync_api.expect(page.locator("#bars i.marked")).to_have_count(1)
        assert page.text_content("#label") == "ham"
        screenshot(page, project_root, "threshold")
        page.close()
