"""The report of the committed runs in a real browser, with the network blocked."""

import functools
import json
import re
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import bench_builder
import pytest
from checkout import REPO
from committed_report import committed

from moe_lab import report
from moe_lab.pages.show import palette
from moe_lab.runs import bench_runs

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("pages")]  # a browser for all but the two slowest

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--proxy-server=127.0.0.1:9",
]
PHONE, LAPTOP = (390, 844), (1366, 900)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> report.Report:
    """Every notebook as committed, the first with a single phase (figures as low as they get), align with a sweep."""
    out = tmp_path_factory.mktemp("reports")
    single = report.build(["01"], out=out / "single", parameters={"prefill_run": ""})
    done = committed(out)
    rows = bench_builder.rows([2**i for i in range(17)], (8, 16, 32, 64, 128, 256, 512))
    run = bench_runs.import_bench([bench_builder.write(out / "a.json", rows)], "h200/x", root=out)
    given = {"bench_run": str(run.path)}
    sweep = report.build(["04"], out=out / "sweep", parameters=given)
    done.pages.extend([single.pages[0], sweep.pages[0]])
    assert [page.failed for page in done.pages] == [None] * len(done.pages)
    return done


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip(
            "chromium or chromedriver is not on PATH: install them (Debian: apt install chromium chromium-driver)"
        )
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install moe-lab[dev]")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in [*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield opened
    opened.quit()


def visit(browser: Any, path: Path, size: tuple[int, int]) -> None:
    width, height = size
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    browser.get(path.as_uri())
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and not browser.execute_script(DRAWN):
        time.sleep(0.1)


DRAWN = """
return document.readyState === 'complete' && [...document.querySelectorAll('.plot-area')]
  .every(area => area.querySelector('.point path, .scatterlayer path, .heatmap-label, canvas'));
"""
POINTS = """
const marks = '.point path, .scatterlayer path.point, .heatmap-label';
const visible = p => { const box = p.getBoundingClientRect(); return box.width > 0 && box.height > 0; };
return [...document.querySelectorAll('.plot-area')]
  .map(area => [...area.querySelectorAll(marks)].filter(visible).length);
"""
OVERFLOW = "return [document.documentElement.scrollWidth, window.innerWidth];"
CLIPPED = """
return [...document.querySelectorAll('.plot-area')].flatMap(area => {
  const outer = area.getBoundingClientRect();
  const leaves = t => { const box = t.getBoundingClientRect();
    return box.width && (box.left < outer.left - 1 || box.right > outer.right + 1 || box.bottom > outer.bottom + 1); };
  return [...area.querySelectorAll('.xtick text, .ytick text, .xtitle, .legendtext, .bartext')].filter(leaves)
    .map(t => t.textContent);
});
"""


OVERLAPPING = """
const crosses = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
return [...document.querySelectorAll('.plot-area')].flatMap(area => {
  const legend = area.querySelector('.legend');
  return legend ? [...area.querySelectorAll('.xtick text, .xtitle')]
    .filter(t => crosses(t.getBoundingClientRect(), legend.getBoundingClientRect())).map(t => t.textContent) : [];
});
"""


def requests(browser: Any) -> list[str]:
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    local = "file:", "data:", "blob:", "chrome:", "chrome-untrusted:"  # the last two: the browser's own first tab
    return [url for url in sent if not url.startswith(local)]


class Seen(NamedTuple):
    """What a page shows and does when it is opened."""

    path: Path
    points: list[int]
    requests: list[str]
    messages: list[str]
    widths: list[int]
    clipped: list[str]
    overlapping: list[str]
    said: list[str]
    picture: float | None


SAID = "return [...document.querySelectorAll('.findings .open li')].map(li => li.textContent);"
PICTURE = "const area = document.querySelector('.plot-area'); return area && area.getBoundingClientRect().top;"


@pytest.fixture(scope="module")
def seen(built: report.Report, browser: Any) -> Callable[[tuple[int, int]], list[Seen]]:
    """The index and every page in a window of a size, each opened once for all tests that only look."""

    def look(path: Path, size: tuple[int, int]) -> Seen:
        visit(browser, path, size)
        run = browser.execute_script
        points, *places = (run(script) for script in (POINTS, OVERFLOW, CLIPPED, OVERLAPPING, SAID, PICTURE))
        messages = [entry["message"] for entry in browser.get_log("browser")]
        return Seen(path, points, requests(browser), messages, *places)

    @functools.cache
    def opened(size: tuple[int, int]) -> list[Seen]:
        return [look(path, size) for path in (built.index, *(page.html for page in built.pages))]

    return opened


@pytest.mark.parametrize("size", [LAPTOP, PHONE], ids=["laptop", "phone"])
def test_html_pages_draw_every_figure_offline(built: report.Report, seen: Any, size: tuple[int, int]) -> None:
    for page, found in zip(built.pages, seen(size)[1:], strict=True):
        assert len(found.points) == page.figures
        assert all(n >= 3 for n in found.points), f"drawn in each figure of {page.html.name}: {found.points}"
        assert found.requests == []
        assert found.messages == []


@pytest.mark.parametrize("size", [LAPTOP, PHONE], ids=["laptop", "phone"])
def test_html_fits_the_screen_and_every_label_its_place(seen: Any, size: tuple[int, int]) -> None:
    for found in seen(size):
        needed, available = found.widths
        assert needed <= available, f"{found.path.name} needs {needed} px"
        assert found.clipped == []
        assert found.overlapping == []


def test_html_index_leads_to_every_page(built: report.Report, browser: Any) -> None:
    visit(browser, built.index, LAPTOP)
    links = [a.get_attribute("href") for a in browser.find_elements("css selector", "a.card")]
    assert links == [page.html.as_uri() for page in built.pages[:-2]]
    boxes = browser.execute_script(
        "return [...document.querySelectorAll('.thumb rect')].map(r => r.getBoundingClientRect().width);"
    )
    assert len([w for w in boxes if w > 1]) >= 3
    assert requests(browser) == []


def test_html_code_appears_when_asked_for(built: report.Report, browser: Any) -> None:
    visit(browser, built.pages[0].html, LAPTOP)
    source = browser.find_element("css selector", ".source")
    assert not source.is_displayed()
    browser.find_element("id", "code").click()
    assert source.is_displayed()


def test_html_first_screen_has_at_most_three_short_sentences_and_a_picture(seen: Any) -> None:
    """A number and its unit are one word; the picture begins within the first screen of a laptop."""
    for found in seen(LAPTOP)[1:-2]:
        assert 1 <= len(found.said) <= 3, found.path.name
        assert [s for s in found.said if len(s.split(" ")) > 25] == []
        assert found.path.stat().st_size < 300_000
        assert found.picture < LAPTOP[1] - 100, found.path.name


def table_with(browser: Any, words: str) -> Any:
    """Return the first table after the heading that has these words, once it can be sorted."""
    script = """
      const [words, done] = arguments;
      const heading = [...document.querySelectorAll('h2')].find(h => h.textContent.includes(words));
      const after = e => heading.compareDocumentPosition(e) & Node.DOCUMENT_POSITION_FOLLOWING;
      const table = [...document.querySelectorAll('table.lab')].find(after);
      const wait = () => table.classList.contains('dataTable') ? done(table) : setTimeout(wait, 50);
      wait();
    """
    return browser.execute_async_script(script, words)


COLUMN = "return [...arguments[0].tBodies[0].rows].map(row => row.cells[arguments[1]].textContent);"


def test_html_tables_sort_by_number_search_and_give_csv(built: report.Report, browser: Any) -> None:
    page = next(p for p in built.pages if p.html.stem == "02_m_sweep")
    visit(browser, page.html, LAPTOP)
    table = table_with(browser, "Who wins")
    sizes = browser.execute_script(COLUMN, table, 0)
    browser.execute_script("arguments[0].tHead.rows[0].cells[2].click();", table)
    browser.execute_script("arguments[0].tHead.rows[0].cells[2].click();", table)
    times = [float(text.replace(",", "")) for text in browser.execute_script(COLUMN, table, 2)]
    assert times == sorted(times, reverse=True), "by value, not by text"
    search = "const box = arguments[0].closest('.scroll').previousElementSibling.querySelector('input');"
    search += "box.value = 'compute'; box.dispatchEvent(new Event('input'));"
    browser.execute_script(search, table)
    assert 0 < len(browser.execute_script(COLUMN, table, 0)) < len(sizes)
    buttons = "return [...arguments[0].closest('.scroll').previousElementSibling.querySelectorAll('button')]"
    assert browser.execute_script(f"{buttons}.map(b => b.textContent);", table) == ["Filter", "Copy", "CSV"]


def test_html_one_filter_hides_a_backend_in_figures_and_tables(built: report.Report, browser: Any) -> None:
    page = next(p for p in built.pages if p.html.stem == "02_m_sweep")
    visit(browser, page.html, LAPTOP)
    table_with(browser, "Rates")
    rows = (
        "return [...document.querySelectorAll('td')].filter(c => c.textContent === 'grouped' && c.offsetParent).length;"
    )
    shown = "return document.querySelector('.plot-area')._fullData.find(t => t.name === 'grouped').visible;"
    before = browser.execute_script(rows)
    assert browser.execute_script(shown) is True
    box = "[...document.querySelectorAll('.filter label')].find(l => l.textContent.trim() === 'grouped').click();"
    browser.execute_script(box)
    assert browser.execute_script(shown) is False
    assert browser.execute_script(rows) < before


@pytest.mark.xdist_group("slowest")
def test_html_has_no_serious_fault_for_readers_with_assistive_technology(built: report.Report, browser: Any) -> None:
    """axe-core judges names, roles, contrast and the keyboard, in both themes."""
    axe = REPO / "node_modules" / "axe-core" / "axe.min.js"
    if not axe.exists():
        pytest.skip("axe-core is not installed: npm install --no-save axe-core")
    script = "const done = arguments[0]; axe.run(document, {resultTypes: ['violations']}).then(found => done("
    script += "found.violations.filter(v => ['serious', 'critical'].includes(v.impact))"
    script += ".map(v => [v.id, v.nodes[0].html.slice(0, 200)])));"
    for scheme in ("light", "dark"):
        features = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", features)
        for path in [built.index, *(page.html for page in built.pages[:-2])]:
            visit(browser, path, LAPTOP)
            browser.execute_script(axe.read_text())
            assert browser.execute_async_script(script) == [], f"{path.name}, {scheme}"
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_html_figures_follow_the_dark_scheme(built: report.Report, browser: Any) -> None:
    visit(browser, built.pages[0].html, LAPTOP)
    colour = "return getComputedStyle(document.querySelector('.xtick text')).fill;"
    light = browser.execute_script(colour)
    dark_media = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", dark_media)
    deadline = time.monotonic() + 5
    while browser.execute_script(colour) == light and time.monotonic() < deadline:
        time.sleep(0.1)
    dark = browser.execute_script(colour)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert dark != light


CELLS = """
return [...document.querySelector('.plot-area').querySelectorAll('.heatmap-label text')].slice(0, 1)
  .map(t => getComputedStyle(t).fill)
  .concat(JSON.stringify(document.querySelector('.plot-area')._fullData[0].colorscale));
"""


def test_html_heat_maps_are_deep_on_dark_paper_and_their_text_light(built: report.Report, browser: Any) -> None:
    page = next(p for p in built.pages if p.html.stem == "07_backends")
    seen = {}
    for scheme in ("light", "dark"):
        features = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", features)
        visit(browser, page.html, LAPTOP)
        text, scale = browser.execute_script(CELLS)
        seen[scheme] = text, [tint for _, tint in json.loads(scale)]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    light, dark = zip(*palette.tints(2, 6), strict=True)
    assert seen == {"light": ("rgb(29, 36, 48)", [*light]), "dark": ("rgb(230, 233, 238)", [*dark])}


HOSTILE = "<!--<script><b>bold</b><a href=javascript:alert(1)>link</a>&amp;%{x}"


def test_html_shows_names_with_markup_as_text(browser: Any, tmp_path: Path) -> None:
    committed = REPO / "profiles" / "h200" / "qwen3-30b-a3b_decode_b16_ctx2048"
    folder = tmp_path / "h200" / "decode"
    shutil.copytree(committed, folder)
    with closing(sqlite3.connect(folder / "report.sqlite")) as connection, connection:
        where = "id IN (SELECT shortName FROM CUPTI_ACTIVITY_KIND_KERNEL UNION"
        where += " SELECT demangledName FROM CUPTI_ACTIVITY_KIND_KERNEL)"
        connection.execute(f"UPDATE StringIds SET value = ? || value WHERE {where}", (HOSTILE,))
    given = {"decode_run": str(folder), "prefill_run": ""}
    done = report.build(["01"], out=tmp_path / "out", parameters=given, grid=None, show_code=False)
    page = done.pages[0]
    assert page.failed is None
    visit(browser, page.html, LAPTOP)
    points = browser.execute_script(POINTS)
    assert len(points) == page.figures
    assert all(n >= 3 for n in points)
    assert [entry["message"] for entry in browser.get_log("browser")] == []
    cells = [cell.text for cell in browser.find_elements("css selector", "table.lab td")]
    assert any(HOSTILE in text for text in cells)
    assert browser.execute_script("return document.querySelectorAll('a[href^=javascript]').length") == 0
    footer = browser.find_element("css selector", "footer")
    assert footer.text.startswith("Parameters: ")
    hovers = browser.execute_script(HOVERS)
    assert any(HOSTILE in text for text in hovers), hovers


# The hover of one bar that has a kernel's name, in each figure.
HOVERS = """
return [...document.querySelectorAll('.plot-area')].flatMap((area, figure) => {
  const trace = area.data.findIndex(t => /bold/.test(JSON.stringify([t.hovertext, t.customdata])));
  if (trace < 0) return [];
  Plotly.Fx.hover(area, [{curveNumber: trace, pointNumber: 0}]);
  return [...area.querySelectorAll('.hoverlayer text')].map(t => t.textContent);
});
"""


HOVERED = """
const [figure, most, done] = arguments;
const area = document.querySelectorAll('.plot-area')[figure];
const points = area._fullData.flatMap((trace, curve) => {
  const bars = trace.type === 'bar' || trace.type === 'waterfall';
  const named = (bars && trace.orientation === 'h') || typeof trace._input.y[0] === 'string';
  const given = named ? trace._input.x : trace._input.y;
  if (!(bars || trace.type === 'scatter') || !trace.hovertemplate) return [];
  const last = [...given.keys()].filter(i => given[i] !== null).slice(bars ? -most : -1);
  return last.map(i => [trace, curve, i, given[i]]);
});
(async () => {
  const found = [], step = Math.ceil(points.length / 10);
  for (const [trace, curve, point, value] of points.filter((_, i) => i % step === 0)) {
    Plotly.Fx.hover(area, [{curveNumber: curve, pointNumber: point}], (trace.xaxis || 'x') + (trace.yaxis || 'y'));
    await new Promise(resolve => setTimeout(resolve, 60));  // plotly.js takes one hover in 50 ms
    const texts = [...area.querySelectorAll('.hoverlayer .hovertext')].map(t => t.textContent);
    if (texts.length) found.push([trace.type, value, texts.join(' | ')]);
  }
  done(found);
})();
"""


def says(text: str, value: float) -> bool:
    """Return whether a text holds the value, rounded to as many digits as it shows there."""
    for shown in re.findall(r"-?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?", text.replace("\u2212", "-")):
        digits = len(shown.partition("e")[0].partition(".")[2])
        whole = sum(c.isdigit() for c in shown.partition("e")[0]) if digits == 0 else 0
        unit = 10.0 ** (len(str(int(abs(value)))) - min(4, whole)) if whole else 10.0**-digits  # %{x:.4g} rounds 12,345
        if abs(float(shown.replace(",", "")) - value) <= 0.5001 * unit:
            return True
    return False


@pytest.mark.xdist_group("slowest")
def test_html_hover_texts_say_the_length_of_what_is_under_the_pointer(built: report.Report, browser: Any) -> None:
    """A bar that starts at a base ends at base + length: the text must not say where it ends."""
    seen: dict[str, int] = {}
    for page in built.pages:
        visit(browser, page.html, LAPTOP)
        for figure in range(page.figures):
            for kind, value, text in browser.execute_async_script(HOVERED, figure, 4):
                assert says(text, value), f"{page.html.name}, figure {figure + 1}: '{text}' instead of {value}"
                seen[kind] = seen.get(kind, 0) + 1
    assert seen["bar"] > 30, seen
    assert seen["waterfall"] >= 4, seen
    assert seen["scatter"] > 30, seen
