"""The report in a browser: it filters, sorts, unveils, changes with the colour scheme, fits every width, and prints."""

import itertools
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from evaluation.report import write_report
from tests.made_up_studies import write_scaling, write_study, write_suite

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((found for name in NAMES if (found := shutil.which(name))), "")
pytestmark = pytest.mark.skipif(
    not CHROMIUM, reason="no chromium, chromium-browser or google-chrome on PATH (apt-get install chromium)"
)
KINDS = ("evaluation", "suite", "study", "scaling", "index")
WIDTHS = (400, 800, 1600)
# The least contrast of any text with what lies under it, as WCAG 2 defines it, and that text.
CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const seen = new Map();
  const of = (colour) => { if (!seen.has(colour)) seen.set(colour, rgba(colour)); return seen.get(colour); };
  let worst = [99, ""];
  const walker = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const parent = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !parent.getClientRects().length || parent.closest("title")) continue;
    let under = parent;
    while (under && of(getComputedStyle(under).backgroundColor)[3] < 255) under = under.parentElement;
    const style = getComputedStyle(parent);
    const ink = light(of(parent.closest("svg") ? style.fill : style.color));
    const paper = light(of(getComputedStyle(under || document.body).backgroundColor));
    const contrast = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
    if (contrast < worst[0]) worst = [contrast, `${parent.tagName}.${parent.className}: ${walker.currentNode.data}`];
  }
  return worst;
}"""


@pytest.fixture(scope="module")
def addresses(made_up: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The address of each kind of page: files on disk, and the index of a server."""
    import uvicorn

    from evaluation.report.serve import make_app

    root = tmp_path_factory.mktemp("runs")
    shutil.copytree(made_up, root / "evaluation-run", ignore=shutil.ignore_patterns("dataset"))
    write_suite(root / "suite-run")
    write_study(root / "study-run")
    write_scaling(root / "a-scaling-run-with-a-name-that-is-longer-than-a-narrow-screen-is-wide")
    pages = {}
    for folder in sorted(root.iterdir()):
        kind = next(kind for kind in KINDS if kind in folder.name)
        pages[kind] = write_report(folder).as_uri()
    server = uvicorn.Server(uvicorn.Config(make_app(root), port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    started = threading.Event()
    while not server.started and thread.is_alive():
        started.wait(0.02)
    pages["index"] = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    yield pages
    server.should_exit = True
    thread.join(10)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Any, addresses: dict[str, str]) -> Iterator[Callable[..., Any]]:
    """Opens a kind of page; at the end there must have been no console error and no request but for the page's own."""
    said: list[str] = []
    asked: list[str] = []
    pages = []

    def opened(kind: str, **options: Any) -> Any:
        page = browser.new_page(**options)
        page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(addresses[kind])
        pages.append(page)
        return page

    yield opened
    for page in pages:
        page.close()
    assert said == []
    own = ("data:image/", *addresses.values(), addresses["index"])
    assert asked and all(url.startswith(own) for url in asked), asked


@pytest.mark.parametrize("kind", KINDS)
def test_it_fits_every_width_in_both_colour_schemes(visit: Callable[..., Any], kind: str) -> None:
    page = visit(kind, viewport={"width": 400, "height": 900})
    papers = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            scroll, client = page.evaluate(
                "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
            )
            assert scroll <= client, (scheme, width)
        papers.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        page.evaluate("for (const it of document.querySelectorAll('details')) it.open = true")
        contrast, where = page.evaluate(CONTRAST)
        assert contrast >= 4.5, (scheme, contrast, where)
    assert papers[0] != papers[1]


@pytest.mark.parametrize("kind", KINDS)
def test_headings_stand_in_order_and_tables_are_named(visit: Callable[..., Any], kind: str) -> None:
    page = visit(kind)
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3, h4')].map((it) => Number(it.tagName[1]))")
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    bare = page.evaluate(
        "[...document.querySelectorAll('table')].filter((it) => !it.caption || !it.caption.textContent).length"
    )
    assert bare == 0
    assert page.locator("th:not([scope])").count() == 0
    assert page.evaluate(
        "[...document.querySelectorAll('td.empty')].every((it) => it.title && it.innerText.length > 2)"
    )


def test_a_click_on_a_columns_head_sorts_and_says_so(visit: Callable[..., Any]) -> None:
    page = visit("study")
    table = page.locator("table", has_text="All variants").last
    head = table.locator("thead th", has_text="Unsafe").first
    figures = "rows => rows.map((row) => row.cells[2].dataset.sort).map(Number)"
    head.locator("button").click()
    rising = table.locator("tbody tr").evaluate_all(figures)
    assert rising == sorted(rising) and len(rising) >= 40 and head.get_attribute("aria-sort") == "ascending"
    head.locator("button").focus()
    page.keyboard.press("Enter")
    assert table.locator("tbody tr").evaluate_all(figures) == rising[::-1]
    assert head.get_attribute("aria-sort") == "descending"
    # A column with an empty cell: that row stands last in either direction.
    counterpart = table.locator("thead th", has_text="Counterpart drawn").locator("button")
    for _ in range(2):
        counterpart.click()
        assert "empty" in (table.locator("tbody tr").last.locator("td").nth(3).get_attribute("class") or "")
    assert table.locator("[aria-sort]").count() == 1


def test_filters_by_text_and_by_category_leave_what_fits(visit: Callable[..., Any]) -> None:
    page = visit("evaluation")
    box = page.locator("[data-filtered]", has=page.locator("caption", has_text="Categories, models and measures"))
    rows = box.locator("tbody tr:visible")
    whole = rows.count()
    box.locator("select").select_option("hate")
    assert 0 < rows.count() < whole and all(text.startswith("hate") for text in rows.locator("th").all_inner_texts())
    box.locator("input").fill("MERGED")
    assert rows.locator("th").all_inner_texts() == ["hate, merged"]
    assert box.locator("output").inner_text() == f"1 of {whole}"
    pairs = page.locator("[data-filtered]", has=page.locator(".pairs"))
    assert pairs.locator(".pair:visible").count() == 28
    pairs.locator("select").select_option("violence")
    assert pairs.locator(".pair:visible").count() == 4 and pairs.locator("h4:visible").all_inner_texts() == ["violence"]


def test_pictures_are_unveiled_by_mouse_by_key_and_all_at_once_but_never_in_print(visit: Callable[..., Any]) -> None:
    page = visit("evaluation", reduced_motion="reduce")
    blur = "its => its.map((it) => getComputedStyle(it).filter)"
    veiled = page.locator(".veil img")
    assert veiled.count() >= 28 and all("blur" in value for value in veiled.evaluate_all(blur))
    first, second = page.locator(".veil").nth(0), page.locator(".veil").nth(1)
    first.click()
    assert first.get_attribute("aria-pressed") == "true"
    page.keyboard.press("Tab")
    outline = second.evaluate("it => getComputedStyle(it).outlineStyle")
    page.keyboard.press("Space")
    values = veiled.evaluate_all(blur)
    assert values[:2] == ["none", "none"] and all("blur" in value for value in values[2:])
    assert outline == "solid"
    page.locator(".toggle").click()
    assert set(veiled.evaluate_all(blur)) == {"none"}
    page.emulate_media(media="print")
    assert all("blur" in value for value in veiled.evaluate_all(blur))
    assert not page.locator(".toggle").is_visible()
    page.emulate_media(media="screen")
    page.locator(".toggle").click()
    assert all("blur" in value for value in veiled.evaluate_all(blur))


def test_the_index_leads_to_every_report_and_filters_by_kind(visit: Callable[..., Any]) -> None:
    page = visit("index")
    assert page.locator(".run").count() == 4
    page.locator("select").select_option("Merge study")
    assert page.locator(".run:visible h2").all_inner_texts() == ["study-run"]
    page.locator("select").select_option("")
    for i in range(4):
        link = page.locator(".run h2 a").nth(i)
        name = link.inner_text()
        link.click()
        assert page.locator(".verdict").count() == 1, name
        page.locator("summary").first.click()
        page.go_back()
    assert page.locator(".run img").evaluate_all("its => its.map((it) => it.complete && it.naturalWidth > 0)") == [True]


def test_words_without_a_break_widen_no_page_and_no_print(
    visit: Callable[..., Any], addresses: dict[str, str], made_up: Path, tmp_path: Path
) -> None:
    word = "W" * 300
    shutil.copytree(made_up, tmp_path / "run", ignore=shutil.ignore_patterns("dataset"))
    results = tmp_path / "run" / "evaluation" / "results.json"
    value = json.loads(results.read_text("utf8"))
    models = value["models"]
    models[f"expert/{word}"] = models["merged"] | {"relative_reduction": {"value": 0.1, "low": 0, "high": 1, "n": 3}}
    value["provenance"]["recipe"] = value["provenance"]["judge"] = word
    results.write_text(json.dumps(value))
    (tmp_path / "run" / "seconds.json").write_text(json.dumps({word: 1e15}))
    suite = write_suite(tmp_path / "run")
    value = json.loads(suite.read_text("utf8"))
    value["rows"][0] |= {"title": word, "metric": word, "base": {"value": -1e15, "low": -1e15, "high": 1e15, "n": 1}}
    suite.write_text(json.dumps(value))
    addresses["words"] = write_report(tmp_path / "run").as_uri()
    page = visit("words")
    page.evaluate("for (const it of document.querySelectorAll('details')) it.open = true")
    for media, widths in (("screen", WIDTHS), ("print", (1000,))):
        page.emulate_media(media=media)
        for width in widths:
            page.set_viewport_size({"width": width, "height": 900})
            wide = page.evaluate("document.documentElement.scrollWidth")
            assert wide <= width, (media, width, wide)


def test_a_study_of_500_rows_stays_usable(visit: Callable[..., Any], addresses: dict[str, str], tmp_path: Path) -> None:
    write_study(tmp_path, rows=500)
    addresses["huge"] = write_report(tmp_path).as_uri()
    page = visit("huge", viewport={"width": 800, "height": 900})
    table = page.locator("table", has_text="All variants").last
    milliseconds = table.evaluate(
        """it => { const start = performance.now(); it.querySelector("thead th:nth-child(3) .sort").click();
        it.getBoundingClientRect(); return performance.now() - start; }"""
    )
    assert milliseconds < 5_000, milliseconds
    assert table.locator("tbody tr").count() >= 500
    scroll, client = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert scroll <= client
