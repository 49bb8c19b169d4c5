"""The book in a real browser, from disk: nothing from elsewhere, nothing complained about."""

import shutil
import subprocess
import tarfile

import pytest

pytestmark = pytest.mark.notebooks

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
OFFLINE = ["--no-sandbox", "--disable-background-networking", "--disable-component-update"]
AXE = "axe-core@4.14.1"
PAGES = ("intro.html", "chapters/01_tiny.html", "scoreboard.html", "bibliography.html")
WIDTHS, THEMES = (1300, 390), ("light", "dark")
HEAVIEST = 300_000  # bytes of a page's interactive figures

# Elements beyond the window's right edge that are not inside of something that scrolls.
TOO_WIDE = """() => {
  const scrolls = (e) => e && (/auto|scroll|hidden/.test(getComputedStyle(e).overflowX)
    || scrolls(e.parentElement));
  const edge = document.documentElement.clientWidth + 1;
  return [...document.querySelectorAll('.bd-article *')]
    .filter((e) => e.getBoundingClientRect().right > edge && !scrolls(e.parentElement))
    .map((e) => e.tagName + '.' + e.className);
}"""
CUT = """() => [...document.querySelectorAll('.bd-article pre')]
  .filter((e) => e.scrollWidth > e.clientWidth + 1).map((e) => e.textContent.slice(0, 60))"""
SERIOUS = """async () => (await axe.run(document, {resultTypes: ['violations'], preload: false}))
  .violations.filter((v) => ['serious', 'critical'].includes(v.impact))
  .map((v) => [v.id, v.nodes[0].html.slice(0, 160)])"""
PIXEL = "c => [...c.getContext('2d').getImageData(c.width / 2, c.height / 4, 1, 1).data]"


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine; install it to look at the pages")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as tools:
        running = tools.chromium.launch(executable_path=CHROMIUM, args=OFFLINE)
        yield running
        running.close()


@pytest.fixture(scope="module")
def axe(tmp_path_factory):
    """The script of the accessibility checker, from npm: it is not part of this project."""
    folder = tmp_path_factory.mktemp("axe")
    if shutil.which("npm") is None:
        pytest.skip("no npm on this machine; install it to check accessibility")
    packed = subprocess.run(
        ["npm", "pack", AXE, "--silent"], cwd=folder, capture_output=True, text=True, timeout=120
    )
    if packed.returncode:
        pytest.skip(f"npm cannot fetch {AXE}: {packed.stderr.strip()[:100]}")
    with tarfile.open(folder / packed.stdout.split()[-1]) as archive:
        return archive.extractfile("package/axe.min.js").read().decode()


@pytest.fixture
def site(recorded, browser):
    """Opens a page of the small project's book and closes it at the end."""
    opened = []

    def visit(name: str, width: int = 1300, theme: str = "light", **options):
        page = browser.new_page(viewport={"width": width, "height": 900}, **options)
        opened.append(page)
        page.complaints, page.outside = [], []
        page.on("request", lambda r: page.outside.append(r.url))
        page.on("console", lambda m: page.complaints.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.add_init_script(f"for (const k of ['mode', 'theme']) localStorage[k] = '{theme}'")
        path, _, anchor = name.partition("#")
        address = (recorded.build / "book" / path).as_uri() + (f"#{anchor}" if anchor else "")
        page.goto(address, wait_until="load")
        return page

    yield visit
    for page in opened:
        page.close()


def requested(page) -> list[str]:
    return [url for url in page.outside if not url.startswith(("file:", "data:"))]


@pytest.mark.parametrize("name", ("index.html", *PAGES))
def test_a_page_opens_from_disk_without_requests_or_errors(site, name):
    page = site(name)
    page.wait_for_timeout(300)
    assert requested(page) == []
    assert page.complaints == []


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_cut_and_wide_tables_scroll_inside_themselves(site, name, width):
    page = site(name, width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(TOO_WIDE) == []
    assert page.evaluate(CUT) == []


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_no_serious_obstacle_for_readers_with_aids(site, axe, name, width, theme):
    page = site(name, width, theme)
    page.wait_for_timeout(300)
    assert page.evaluate("document.documentElement.dataset.theme") == theme
    page.evaluate(axe)
    assert page.evaluate(SERIOUS) == []


def test_formulas_and_figures_are_rendered(site):
    page = site("chapters/01_tiny.html")
    page.wait_for_selector("mjx-container")
    widths = page.eval_on_selector_all("figure img", "all => all.map(i => i.naturalWidth)")
    assert widths and min(widths) > 100


def test_a_chapter_begins_with_its_answer_and_its_figure_in_the_first_screen(site):
    page = site("chapters/01_tiny.html")
    places = [page.locator(s).first.bounding_box() for s in ("article h1", ".answer", "figure img")]
    tops = [place["y"] for place in places]
    assert tops == sorted(tops) and tops[-1] < 900
    assert "The first axis holds 0." in page.locator(".answer").inner_text()
    assert page.locator("div.cell details").first.get_attribute("open") is None


def test_a_chapter_and_the_scoreboard_lead_to_each_other(site):
    page = site("chapters/01_tiny.html")
    page.locator(".answer a.verdict").click()
    page.wait_for_url("**/scoreboard.html#B01")
    assert page.locator("#B01").get_attribute("open") is not None
    page.locator("#B01 a[href='chapters/01_tiny.html']").click()
    page.wait_for_url("**/chapters/01_tiny.html")


def test_a_line_of_the_scoreboard_opens_by_key_and_shows_its_command(site):
    page = site("scoreboard.html")
    row = page.locator("#B01 > summary")
    assert row.bounding_box()["height"] < 45
    row.focus()
    page.keyboard.press("Enter")
    assert page.locator("#B01 code").inner_text() == "t2i-lens run 01_tiny"
    assert page.locator("#B01 svg").get_attribute("aria-label").startswith("value 0.")


def test_claims_are_filtered_by_verdict(site):
    page = site("scoreboard.html")
    assert page.locator(".filters output").inner_text() == "1 of 1 claims"
    chosen = page.locator("select[name=verdict]")
    assert chosen.locator("option").all_inner_texts() == ["all", "● reproduced"]
    chosen.select_option("reproduced")
    assert page.locator("#B01").is_visible()
    page.evaluate("document.querySelector('#B01').dataset.verdict = 'opposite'")
    chosen.dispatch_event("change")
    assert not page.locator("#B01").is_visible()
    assert page.locator(".filters output").inner_text() == "0 of 1 claims"


def test_pictures_follow_the_slider_by_dragging_and_by_keys(site):
    page = site("chapters/01_tiny.html")
    figure = page.locator(".interactive[data-kind=series]")
    figure.wait_for()
    canvas, slider = figure.locator("canvas").first, figure.locator("input[type=range]")
    assert canvas.evaluate(PIXEL)[0] == pytest.approx(0, abs=8)  # WebP is lossy
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert canvas.evaluate(PIXEL)[0] == pytest.approx(40, abs=8)
    assert slider.get_attribute("aria-valuetext") == "grey 1"
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] * 0.2, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 2, middle, steps=5)
    page.mouse.up()
    assert canvas.evaluate(PIXEL)[0] == pytest.approx(200, abs=8)
    assert figure.locator("canvas").nth(1).get_attribute("aria-label") == "two, grey 5"


def test_a_word_shows_its_map_by_pointing_and_by_focus_step_by_step(site):
    page = site("chapters/01_tiny.html")
    figure = page.locator(".interactive[data-kind=maps]")
    figure.wait_for()
    token, learned = figure.locator("canvas").first, "<new> / toy"
    page.locator("article h1").hover()
    figure.get_by_role("button", name="a", exact=True).hover()
    assert token.get_attribute("aria-label") == "TI token: map of a in step 1 of 9"
    before = token.evaluate(PIXEL)
    figure.get_by_role("button", name=learned).focus()
    figure.locator("input[type=range]").focus()
    page.keyboard.press("ArrowRight")
    labels = [figure.locator("canvas").nth(i).get_attribute("aria-label") for i in range(2)]
    assert labels == [
        "TI token: map of <new> in step 5 of 9",
        "class word: map of toy in step 5 of 9",
    ]
    assert sum(token.evaluate(PIXEL)[:2]) > sum(before[:2]) + 100  # the upper half lights up
    said = figure.locator("[aria-live]").inner_text()
    assert said.startswith(
        "TI token: <new> gets 25.1 % of the attention; class word: toy gets 12.6 %"
    )


def test_interactive_figures_are_light(recorded):
    page = (recorded.build / "book" / "chapters" / "01_tiny.html").read_text()
    data = page.split('<script type="application/json">')[1:]
    assert len(data) == 2
    assert sum(len(part.partition("</script>")[0]) for part in data) < HEAVIEST


def test_without_script_and_on_paper_the_still_figure_stands_alone(site):
    page = site("chapters/01_tiny.html", java_script_enabled=False)
    assert page.locator("figure img").first.is_visible()
    assert not page.locator(".interactive").first.is_visible()
    page = site("chapters/01_tiny.html")
    page.locator(".interactive[data-kind=maps]").wait_for()
    page.emulate_media(media="print")
    assert page.locator("figure img").first.is_visible()
    for hidden in (".interactive[data-kind=maps]", ".bd-sidebar-primary", ".bd-header-article"):
        assert not page.locator(hidden).first.is_visible(), hidden


def test_a_term_of_the_glossary_is_explained_by_pointing_and_by_focus(site):
    page = site("intro.html")
    term = page.locator("a.term-link", has_text="placeholder token").first
    tip = page.locator("#term-tip")
    assert not tip.is_visible()
    term.hover()
    assert tip.is_visible() and tip.inner_text().startswith("The new word that textual inversion")
    page.keyboard.press("Escape")
    assert not tip.is_visible()
    term.focus()
    assert tip.is_visible()
    assert requested(page) == []


def test_the_search_finds_a_page_from_disk(site):
    page = site("search.html")
    page.goto(page.url.split("?")[0] + "?q=axis")
    page.locator("#search-results li a", has_text="Is the first axis long?").first.wait_for()
    assert page.complaints == []
