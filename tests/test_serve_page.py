"""The page of a service: in a real browser, and what of its framework can be reached from outside.

Gradio asks for an older Pillow than the one that the tests are pinned to, so that the extra ``test`` has it not: these
tests run where it is installed (pip install 'tanl[serve]').
"""

import json
import sys
from pathlib import Path

import pytest
from serving import LABELS, colour_guard, picture, served

from tanl.serve.service import Service

pytest.importorskip("gradio", reason="needs Gradio: pip install 'tanl[serve]'")
httpx = pytest.importorskip("httpx2", reason="needs an HTTP client: pip install httpx2")

from tanl.serve.api import make_app  # noqa: E402, the packages above come first
from tanl.serve.page import add_page  # noqa: E402

CHROMIUM = Path("/usr/bin/chromium")


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    return Service(colour_guard(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def url(service):
    app = make_app(service)
    add_page(app, service)
    with served(app) as found:
        yield found


@pytest.fixture(autouse=True)
def as_at_the_start(service):
    service.guard.reset()
    service.guard.uncalibrate()
    service.guard.set_labels(LABELS)


# --- without a browser --------------------------------------------------------------------------------------


def join(url, data, **others):
    body = {"data": data, "fn_index": 0, "session_hash": "abc", "event_data": None, **others}
    return httpx.post(f"{url}/page/gradio_api/queue/join", json=body)


def test_the_start_leads_to_the_page(url):
    answer = httpx.get(url, follow_redirects=True)
    assert answer.url.path == "/page/"
    assert '"title":"tanl"' in answer.text
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/page/gradio_api/file=/etc/passwd"),
        ("GET", "/page/gradio_api/file/etc/passwd"),
        ("GET", "/page/gradio_api/proxy=http://127.0.0.1/"),
        ("GET", "/page/gradio_api/custom_component/1/client/component/index.js"),
        ("GET", "/page/assets/../../../../etc/passwd"),
        ("GET", "/page/static/%2e%2e/%2e%2e/etc/passwd"),
        ("GET", "/page/monitoring"),
        ("POST", "/page/gradio_api/upload"),
        ("POST", "/page/gradio_api/run/use"),
        ("POST", "/page/gradio_api/call/use"),
        ("POST", "/page/gradio_api/api/use"),
        ("POST", "/page/gradio_api/process_recording"),
        ("POST", "/page/gradio_api/vibe-edit"),
        ("POST", "/page/gradio_api/component_server"),
        ("POST", "/page/login"),
        ("DELETE", "/page/"),
    ],
)
def test_what_the_page_does_not_need_is_not_there(url, method, path):
    answer = httpx.request(method, url + path)
    assert answer.status_code in (403, 404), answer.text
    assert "root:" not in answer.text


FILE = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}


@pytest.mark.parametrize(
    "data",
    [
        [FILE],
        [[FILE]],
        [{"path": "http://127.0.0.1:1/a.png", "meta": {"_type": "gradio.FileData"}}],
        [{"url": "http://127.0.0.1:1/a.png"}],
        FILE,
    ],
)
def test_values_that_name_a_file_or_an_address_are_refused(url, data):
    answer = join(url, data)
    assert answer.status_code == 403
    assert "no file and no address is opened" in answer.json()["error"]


def test_what_is_no_json_or_too_much_text_is_refused(url):
    path = f"{url}/page/gradio_api/queue/join"
    assert httpx.post(path, content=b"{").status_code == 422
    assert join(url, ["x" * 2_000_000]).status_code == 413


def test_pages_of_others_are_refused_here_too(url):
    assert httpx.get(f"{url}/page/", headers={"host": "evil.example"}).status_code == 403
    body = json.dumps({"data": ["red"], "fn_index": 0, "session_hash": "a"})
    headers = {"origin": "http://evil.example"}
    assert httpx.post(f"{url}/page/gradio_api/queue/join", content=body, headers=headers).status_code == 403


# --- in a browser -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    if not CHROMIUM.exists():
        pytest.skip(f"there is no {CHROMIUM}")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def page(browser, url):
    """The page, loaded; whatever it asked of others, or could not do, fails the test at its end."""
    made = browser.new_page(viewport={"width": 1280, "height": 900})
    made.set_default_timeout(30_000)
    foreign, errors = [], []
    made.on("request", lambda each: each.url.startswith((url, "blob:", "data:")) or foreign.append(each.url))
    made.on("pageerror", lambda error: errors.append(str(error)))
    made.goto(url)
    made.wait_for_selector(".zone")
    made.wait_for_selector("#classes-told .status")  # all that is fetched once the page is there
    yield made
    assert foreign == []
    assert errors == []
    made.close()


def pictures(*colours, seed=0):
    return [
        {
            "name": f"{colour}-{number}.png",
            "mimeType": "image/png",
            "buffer": picture(colour, seed + number, 64),
        }
        for number, colour in enumerate(colours)
    ]


def drop(page, files, done):
    page.set_input_files(".zone input", files)
    page.wait_for_function("done => document.querySelector('.said').textContent.includes(done)", arg=done)


def test_dropped_images_get_verdicts_and_the_health_follows(page, service):
    notes = {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"<img src=x onerror=alert(1)>"}
    drop(page, [*pictures("red", "blue", "green"), notes], "4 images judged.")
    cards = page.locator(".card")
    assert cards.count() == 4
    assert cards.locator(".badge").all_inner_texts() == ["ID", "OOD", "ID", "unreadable"]
    assert cards.nth(0).locator(".best b").inner_text() == "red"
    assert cards.nth(1).locator(".evidence li").first.inner_text().startswith("blue")
    assert "not an image" in cards.nth(3).locator(".why").inner_text()
    assert page.locator(".counts").inner_text() == "2 ID, 1 OOD, 1 unreadable"
    assert cards.nth(0).locator("img").evaluate("image => image.naturalWidth") == 64
    page.wait_for_function("document.querySelector('#health').textContent.includes('3 judged since')")
    assert service.health()["stream"]["images"] == 3
    page.get_by_role("button", name="OOD").click()
    assert page.locator(".card:visible .badge").all_inner_texts() == ["OOD"]
    page.get_by_role("button", name="All").click()
    assert page.locator(".card:visible").count() == 4
    page.get_by_role("button", name="Clear").click()
    assert cards.count() == 0


def test_only_scoring_teaches_nothing(page, service):
    page.get_by_text("Only score").click()
    drop(page, pictures("red", "blue"), "2 images scored, nothing learnt.")
    assert service.health()["stream"]["images"] == 0


def test_many_images_are_sent_in_batches(page, service):
    drop(page, pictures(*["red", "blue", "green", "yellow"] * 10), "40 images judged.")
    assert page.locator(".card").count() == 40
    assert service.health()["stream"]["images"] == 40


def test_a_batch_that_cannot_be_used_keeps_no_other_from_its_verdicts(page, service):
    broken = [{"name": f"{number}.png", "mimeType": "image/png", "buffer": b"x"} for number in range(16)]
    drop(page, [*broken, *pictures("red", "blue")], "18 images judged.")
    assert page.locator(".counts").inner_text() == "1 ID, 1 OOD, 16 unreadable"
    assert service.health()["stream"]["images"] == 2


def test_known_good_images_set_the_threshold(page, service):
    page.get_by_text("Known good: set the threshold").click()
    page.set_input_files(".zone input", pictures("red", "green"))
    page.wait_for_function("document.querySelector('.failed').textContent.includes('too few')")
    drop(page, pictures(*["red", "green"] * 12), "from 24 images")
    page.wait_for_function("document.querySelector('#health').textContent.includes('passes 95%')")
    assert service.health()["calibrated_tpr"] == 0.95


def test_classes_are_typed(page, service):
    typed = page.locator("#classes textarea")
    assert typed.input_value().split() == LABELS
    typed.fill("green\nblue\nyellow\n")
    page.get_by_role("button", name="Use these classes").click()
    page.wait_for_function("document.querySelector('#classes-told').textContent.includes('3 classes')")
    assert service.labels()["labels"] == ["green", "blue", "yellow"]
    typed.fill("green\ngreen")
    page.get_by_role("button", name="Use these classes").click()
    page.wait_for_selector("#classes-told .alert")
    assert "green" in page.locator("#classes-told").inner_text()
    assert service.labels()["labels"] == ["green", "blue", "yellow"]
    drop(page, pictures("blue"), "1 image judged.")
    assert page.locator(".badge").inner_text() == "ID"


def test_the_keyboard_alone_is_enough(page):
    page.locator("input[value=judge]").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("input[value=score]").is_checked()
    with page.expect_file_chooser() as chosen:
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
    chosen.value.set_files(pictures("red"))
    page.wait_for_function("document.querySelector('.said').textContent.includes('scored')")


def test_a_service_that_is_gone_is_told(page):
    page.route("**/judge", lambda route: route.abort())
    page.set_input_files(".zone input", pictures("red"))
    page.wait_for_function("document.querySelector('.failed').textContent.includes('Is it still running?')")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(browser, url, scheme):
    """A contrast of 4.5 to 1, as WCAG AA asks of text, for the quiet texts too."""
    page = browser.new_page(color_scheme=scheme, viewport={"width": 400, "height": 900})
    page.goto(url)
    page.wait_for_selector("#classes-told .status")
    drop(page, pictures("red", "blue"), "2 images judged.")
    assert page.evaluate("document.documentElement.scrollWidth") <= 400  # a narrow window needs no second bar
    found = page.evaluate(CONTRASTS)
    assert len(found) >= 6
    assert {name: ratio for name, ratio in found.items() if ratio < 4.5} == {}
    page.close()


CONTRASTS = """
() => {
  const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = (colour) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const light = ([r, g, b]) => [r, g, b].map((each) => each / 255)
    .map((each) => each <= 0.03928 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4)
    .reduce((sum, each, place) => sum + each * [0.2126, 0.7152, 0.0722][place], 0);
  const behind = (node) => {
    const layers = [];
    for (let each = node; each; each = each.parentElement) layers.unshift(rgb(getComputedStyle(each).backgroundColor));
    return layers.reduce((below, [r, g, b, a]) => [r, g, b].map((c, i) => c * a + below[i] * (1 - a)), [255, 255, 255]);
  };
  const found = {};
  for (const name of [".tanl-head p", ".small", ".said", ".name", ".best span", ".best b", ".evidence small", ".badge",
                      ".health dt", ".health dd", ".well", ".number"]) {
    const node = document.querySelector(name);
    if (!node) continue;
    const levels = [light(rgb(getComputedStyle(node).color)), light(behind(node))].sort((a, b) => b - a);
    found[name] = (levels[0] + 0.05) / (levels[1] + 0.05);
  }
  return found;
}
"""


def test_without_gradio_the_extra_is_named(service, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ImportError, match=r"pip install 'tanl\[serve\]', or serve without it: --no-page"):
        add_page(make_app(service), service)
