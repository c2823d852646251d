"""The report as a person uses it, in a headless Chromium: threshold, filters, groups, viewer, export, many rows."""

import shutil
from pathlib import Path

import pytest
from PIL import Image
from test_results_report import HOSTILE, row, saved

from tanl.report.page import report_page
from tanl.streams.results import Result

playwright = pytest.importorskip(
    "playwright.sync_api", reason='needs playwright: pip install "tanl[browser]"'
)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if CHROMIUM is None:
    pytest.skip("needs a Chromium, as Debian's package chromium", allow_module_level=True)


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser, tmp_path):
    """Opens a report of rows; an error of its script fails the test."""
    errors = []
    contexts = []

    def opened(*rows, **options):
        context = browser.new_context(accept_downloads=True)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        text, _ = report_page(saved(*rows, **options), beside=tmp_path, root=tmp_path, quiet=True)
        (tmp_path / "report.html").write_text(text, encoding="utf-8")
        page.goto((tmp_path / "report.html").as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert errors == []


@pytest.fixture
def rows(tmp_path):
    found = []
    for number in range(10):
        path = Path(f"{'ab'[number % 2]}/image-{number}.png")
        (tmp_path / path.parent).mkdir(exist_ok=True)
        Image.new("RGB", (400, 300), (25 * number, 80, 120)).save(tmp_path / path)
        words = (["fork", "spoon"], ["fork"], [])[number % 3] if number >= 6 else []
        found.append(row(path, number / 10 + 0.05, number >= 6, *words, label="cat" if number < 5 else "dog"))
    return [*found, Result(Path("broken.png"), error="the file is empty")]


def cards(page) -> list[str]:
    return page.locator(".card .name").all_text_contents()


def test_the_gallery_sorts_filters_and_finds(open_page, rows):
    page = open_page(*rows)
    assert cards(page) == [f"image-{number}.png" for number in range(9, -1, -1)]
    assert page.locator("#count").inner_text() == "4 of 10 flagged (40 %), as judged"
    page.get_by_text("Flagged", exact=True).click()
    assert cards(page) == [f"image-{number}.png" for number in (9, 8, 7, 6)]
    page.get_by_text("Passed", exact=True).click()
    page.select_option("#sort", "low")
    assert cards(page) == [f"image-{number}.png" for number in range(6)]
    page.select_option("#label", "dog")
    assert cards(page) == ["image-5.png"]
    page.get_by_text("All", exact=True).click()
    page.select_option("#folder", "b")
    assert cards(page) == [f"image-{number}.png" for number in (5, 7, 9)]
    page.select_option("#label", "")
    page.select_option("#folder", "")
    page.fill("#search", "SPOON")
    page.wait_for_function("document.querySelectorAll('.card').length === 2")
    assert cards(page) == ["image-6.png", "image-9.png"]
    assert page.locator("#shown").inner_text() == "2 of 10 images"


def test_another_threshold_counts_again_and_can_be_taken_back(open_page, rows):
    page = open_page(*rows)
    page.focus("#threshold")
    page.keyboard.press("Home")
    assert page.locator("#count").inner_text() == "10 of 10 flagged (100 %) with this threshold for all"
    page.keyboard.press("End")
    assert page.locator("#count").inner_text() == "0 of 10 flagged (0 %) with this threshold for all"
    page.get_by_text("Passed", exact=True).click()
    assert len(cards(page)) == 10
    page.click("#as-judged")
    assert page.locator("#count").inner_text() == "4 of 10 flagged (40 %), as judged"
    assert len(cards(page)) == 6


def test_the_line_can_be_dragged(open_page, rows):
    page = open_page(*rows)
    box = page.locator("#histogram svg").bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] * 0.9, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.5, middle, steps=4)
    page.mouse.up()
    assert page.locator("#count").inner_text() == "5 of 10 flagged (50 %) with this threshold for all"


def test_flagged_ones_are_grouped_by_what_they_activate(open_page, rows):
    page = open_page(*rows)
    assert page.locator("#group-list b").all_text_contents() == ["fork"]
    page.click("#group-list button")
    assert cards(page) == ["image-9.png", "image-7.png", "image-6.png"]
    page.click("#group-list button")
    assert len(cards(page)) == 10


def test_the_viewer_shows_the_file_with_its_reasons_by_keyboard(open_page, rows, tmp_path):
    page = open_page(*rows)
    (tmp_path / "a" / "image-8.png").unlink()
    page.locator(".card .open").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("#viewer-title").inner_text() == "image-9.png"
    page.wait_for_function("document.getElementById('viewer-image').naturalWidth === 400")  # the file itself
    assert page.locator("#viewer-reasons .bar span:first-child").all_text_contents() == [
        "dog",
        "fork",
        "spoon",
    ]
    page.keyboard.press("ArrowRight")
    assert page.locator("#viewer-title").inner_text() == "image-8.png"
    page.wait_for_function(
        "document.getElementById('viewer-image').naturalWidth === 176"
    )  # what lies in the page
    page.keyboard.press("Escape")
    assert not page.locator("#viewer").is_visible()


def test_selected_files_are_exported_as_a_list(open_page, rows, tmp_path):
    page = open_page(*rows)
    assert page.locator("#export").is_disabled()
    page.get_by_label("select b/image-9.png").check()
    page.get_by_label("select a/image-0.png").check()
    with page.expect_download() as download:
        page.click("#export")
    download.value.save_as(tmp_path / "list")
    assert (tmp_path / "list").read_text() == "a/image-0.png\nb/image-9.png\n"
    page.click("#select-shown")
    assert page.locator("#shown").inner_text() == "10 of 10 images; 10 selected"
    page.click("#clear")
    assert page.locator("#export").is_disabled()


def test_names_that_hold_html_stay_text(open_page):
    page = open_page(
        *[row(f"{HOSTILE}{number}", 0.9, True, HOSTILE, label=HOSTILE) for number in range(3)], key="id"
    )
    page.locator(".card .open").first.click()
    assert page.locator("img[src=x]").count() == 0
    assert page.title() != "1"
    assert page.locator("#group-list b").inner_text() == HOSTILE


def test_thirty_thousand_rows_are_drawn_a_page_at_a_time(open_page):
    many = [row(str(number), (number % 997) / 997, number % 997 > 900, "fork") for number in range(30_000)]
    page = open_page(*many, key="id")
    assert page.locator(".card").count() < 500
    page.get_by_text("Flagged", exact=True).click()
    assert page.locator("#shown").inner_text() == "2,880 of 30,000 embeddings"
    page.locator("#more").scroll_into_view_if_needed()
    page.wait_for_function("document.querySelectorAll('.card').length >= 120")


def test_scores_alike_and_scores_without_verdicts(open_page):
    page = open_page(*[row(str(number), 0.5, None) for number in range(3)], key="id")
    assert "0 of 3 flagged" in page.locator("#count").inner_text()
    assert not page.locator("#as-judged").is_visible()
    page.focus("#threshold")
    page.keyboard.press("Home")
    assert "3 of 3 flagged" in page.locator("#count").inner_text()


def test_everything_has_a_name_for_screen_readers(open_page, rows):
    page = open_page(*rows)
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, [role=img]")].filter((each) =>
             !(each.textContent.trim() || each.getAttribute("aria-label") || each.labels?.length)).length"""
    )
    assert nameless == 0
