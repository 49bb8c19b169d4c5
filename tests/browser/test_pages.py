"""The book in a real browser, from disk: nothing from elsewhere, nothing complained about."""

import shutil

import pytest

pytestmark = pytest.mark.notebooks

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
OFFLINE = ["--no-sandbox", "--disable-background-networking", "--disable-component-update"]


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine; install it to look at the pages")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as tools:
        running = tools.chromium.launch(executable_path=CHROMIUM, args=OFFLINE)
        yield running
        running.close()


@pytest.mark.parametrize(
    "page_name", ["index.html", "chapters/01_tiny.html", "scoreboard.html", "bibliography.html"]
)
def test_a_page_opens_from_disk_without_requests_or_errors(recorded, browser, page_name):
    file = recorded.build / "book" / page_name
    assert file.exists()
    page = browser.new_page()
    outside, complaints = [], []
    page.on("request", lambda r: outside.append(r.url) if not r.url.startswith("file:") else None)
    page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(file.as_uri(), wait_until="load")
    assert [url for url in outside if not url.startswith("data:")] == []
    assert complaints == []
    page.close()


def test_formulas_and_figures_are_rendered(recorded, browser):
    page = browser.new_page()
    page.goto((recorded.build / "book" / "chapters" / "01_tiny.html").as_uri())
    page.wait_for_selector("mjx-container")
    widths = page.eval_on_selector_all("figure img", "all => all.map(i => i.naturalWidth)")
    assert widths and min(widths) > 100
    page.close()
