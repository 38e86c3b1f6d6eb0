"""report.html in a real browser: what a reader does with it, and what a hostile run cannot do."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select

from esft_bench.reports.content import gather
from esft_bench.reports.figures.canvas import Drawn, Gallery
from esft_bench.reports.html.report import render
from esft_bench.spec.record import Record
from tests.reports.conftest import MadeUpRun

CHROMIUM, DRIVER = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="skipped, no Chromium: install chromium and chromium-driver"
)

NASTY = "</script><script>window.owned = true</script><img src=x onerror='window.owned = true'><b>bold</b> &lt;i&gt; "
SVG = """<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 9 9">
<script>window.owned = true</script><style>* { fill: red }</style><image xlink:href="https://example.org/x.png"/>
<defs><path id="dot" d="M0 0h9"/></defs><use xlink:href="#dot" style="stroke: #000000; stroke-width: 2"/>
<a xlink:href="javascript:window.owned = true"><text x="1" y="5" onclick="window.owned = true">hi</text></a>
<text x="1" y="8" style="fill: #1a1a1a; background: url(https://example.org/y.png)">法律</text></svg>"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run whose every text is markup and scripts."""
    folder = tmp_path_factory.mktemp("nasty")

    def spoil(record: Record) -> Record:
        path = folder / record.items
        if record.items:
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            texts = {"completion": NASTY + "法律 ᏣᎳᎩ", "answer": "a fine", "reason": NASTY}
            more = [json.dumps(row | texts | {"prompt": f"{NASTY}question {row['id']}"}) for row in rows]
            path.write_text("\n".join(more), encoding="utf-8")
        title = f"LoRA {NASTY}" if record.method == "lora" else record.method_title
        return record.model_copy(update={"method_title": title, "note": NASTY})

    run = MadeUpRun(change=spoil)
    run.build(folder)
    manifest = run.manifest()
    manifest["suite"]["description"], manifest["notes"] = NASTY, [NASTY]
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    (folder / "figures").mkdir()
    svg = folder / "figures" / "x.svg"
    svg.write_text(SVG, encoding="utf-8")
    content = replace(gather(folder), left_out=[NASTY])
    gallery = Gallery([Drawn("x", "A figure", NASTY, svg, svg.with_suffix(".csv"))], [])
    path = folder / "report.html"
    path.write_text(render(content, gallery), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """One browser for all tests."""
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (
        "headless",
        "no-sandbox",
        "disable-gpu",
        "disable-quic",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        "disable-dev-shm-usage",
        f"user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    yield driver
    driver.quit()


@pytest.fixture
def browser(started: webdriver.Chrome, page: Path) -> Iterator[webdriver.Chrome]:
    """The page, freshly opened; afterwards nothing complained, nothing ran and nothing was asked for."""
    for log in ("browser", "performance"):
        started.get_log(log)
    at(started, 1200)
    in_colours(started, "light")
    started.get(page.as_uri())
    started.execute_script("try { localStorage.clear() } catch {} delete document.documentElement.dataset.theme")
    yield started
    assert started.execute_script("return window.owned") is None
    messages = [json.loads(entry["message"])["message"] for entry in started.get_log("performance")]
    requests = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    asked = [one["request"]["url"] for one in requests if not one["documentURL"].startswith("chrome:")]  # its own pages
    assert asked
    assert [url for url in asked if not url.startswith((page.as_uri(), "data:"))] == []
    assert [entry for entry in started.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []


def at(driver: webdriver.Chrome, width: int) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def in_colours(driver: webdriver.Chrome, scheme: str) -> None:
    preferred = {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"}
    features = [{"name": name, "value": value} for name, value in preferred.items()]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": features})


def one(driver: webdriver.Chrome, selector: str) -> Any:
    return driver.find_element(By.CSS_SELECTOR, selector)


def texts(driver: webdriver.Chrome, selector: str) -> list[str]:
    script = "return [...document.querySelectorAll(arguments[0])].filter(e => !e.hidden).map(e => e.textContent)"
    return list(driver.execute_script(script, selector))


TABLE = "#table-1-task-ability-table"


def column(driver: webdriver.Chrome, place: int) -> list[float]:
    return [float(text.split()[0]) for text in texts(driver, f"{TABLE} tbody td:nth-child({place})")]


def test_a_column_sorts_down_then_up_then_as_it_was(browser: webdriver.Chrome) -> None:
    before = column(browser, 2)
    button = one(browser, f"{TABLE} th:nth-child(2) button")
    header = one(browser, f"{TABLE} th:nth-child(2)")
    for state, expected in (
        ("descending", sorted(before, reverse=True)),
        ("ascending", sorted(before)),
        ("none", before),
    ):
        button.click()
        assert header.get_attribute("aria-sort") == state
        assert column(browser, 2) == expected
    assert sorted(before) != before


def test_rows_sort_by_name_too_and_one_column_at_a_time_says_so(browser: webdriver.Chrome) -> None:
    one(browser, f"{TABLE} th:nth-child(3) button").click()
    one(browser, f"{TABLE} th:nth-child(1) button").click()
    names = texts(browser, f"{TABLE} tbody th")
    assert names == sorted(names)
    states = [
        header.get_attribute("aria-sort") for header in browser.find_elements(By.CSS_SELECTOR, f"{TABLE} thead th")
    ]
    assert [state for state in states if state != "none"] == ["ascending"]


def test_filtering_keeps_the_rows_with_all_words_and_counts_them(browser: webdriver.Chrome) -> None:
    field = one(browser, "input[data-filter='table-1-task-ability-table']")
    field.send_keys("random GATE")
    assert texts(browser, f"{TABLE} tbody tr:not([hidden]) th") == ["Random (Gate)"]
    assert "1 of 7 rows" in one(browser, "#table-1-task-ability .count").text
    field.clear()
    field.send_keys(" ")
    assert len(texts(browser, f"{TABLE} tbody tr:not([hidden]) th")) == 7


def test_a_sample_opens_and_shows_what_was_asked_wanted_and_answered(browser: webdriver.Chrome) -> None:
    one(browser, "#sample-list details summary").click()
    first = one(browser, "#sample-list details[open]")
    assert "question intent-" in first.find_element(By.CSS_SELECTOR, "pre.prompt").text
    assert first.find_element(By.CSS_SELECTOR, "pre.wanted").text == "a fine"
    assert len(first.find_elements(By.CSS_SELECTOR, ".answer")) == 7


def test_samples_filter_by_task_method_score_and_text(browser: webdriver.Chrome) -> None:
    def choose(name: str, value: str) -> None:
        Select(one(browser, f"#sample-filters [name='{name}']")).select_by_value(value)

    choose("benchmark", "law")
    assert set(texts(browser, "#sample-list .of")) == {"Law"}
    choose("method", "fft")
    choose("score", "low")
    one(browser, "#sample-list summary").click()
    scores = texts(browser, "#sample-list details[open] .score:first-child")
    assert len(scores) == 1
    assert 0 <= float(scores[0].removeprefix("score ")) < 50
    one(browser, "#sample-filters [name='text']").send_keys("no such words")
    assert one(browser, "#sample-count").text == "No item fits."
    assert texts(browser, "#sample-list details") == []


def test_more_samples_come_on_demand_and_the_keyboard_stays_in_place(browser: webdriver.Chrome) -> None:
    before = len(texts(browser, "#sample-list details"))
    browser.execute_script("arguments[0].click()", one(browser, "#more"))
    assert len(texts(browser, "#sample-list details")) > before
    script = "return [...document.querySelectorAll('#sample-list summary')].indexOf(document.activeElement)"
    assert browser.execute_script(script) == before


def test_answers_full_of_markup_and_scripts_stay_text(browser: webdriver.Chrome) -> None:
    one(browser, "#sample-list details summary").click()
    shown = one(browser, "#sample-list details[open] .answer pre").get_attribute("textContent")
    assert shown == NASTY + "法律 ᏣᎳᎩ"
    everywhere = "return document.querySelectorAll('main script, main img, main b, main i, header img').length"
    assert browser.execute_script(everywhere) == 0
    assert any(NASTY in title for title in texts(browser, f"{TABLE} tbody th"))


def test_a_figure_keeps_what_draws_and_loses_what_loads_or_runs(browser: webdriver.Chrome) -> None:
    inside = one(browser, "#figure-x svg").get_attribute("outerHTML")
    assert all(word not in inside for word in ("script", "example.org", "onclick", "style", "javascript"))
    assert "法律" in inside
    use = one(browser, "#figure-x use")
    assert use.get_attribute("xlink:href") == "#x-dot"
    colour = "return getComputedStyle(arguments[0]).getPropertyValue(arguments[1])"
    assert browser.execute_script(colour, use, "stroke") == browser.execute_script(
        colour, one(browser, "body"), "color"
    )


WIDEST = """return [...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll') &&
    e.getBoundingClientRect().right > document.documentElement.clientWidth).map(e => e.outerHTML.slice(0, 80))"""


@pytest.mark.parametrize("width", [390, 320, 768, 1400])
def test_the_page_never_scrolls_sideways(browser: webdriver.Chrome, width: int) -> None:
    at(browser, width)
    one(browser, "#sample-list details summary").click()
    one(browser, "#records summary").click()
    root = "document.documentElement"
    sizes = f"return [Math.max({root}.scrollWidth, document.body.scrollWidth), {root}.clientWidth]"
    wide, visible = browser.execute_script(sizes)
    assert visible <= width
    assert wide <= visible, browser.execute_script(WIDEST)


def test_the_system_chooses_light_or_dark_and_the_button_the_other(browser: webdriver.Chrome) -> None:
    def brightness() -> int:
        colour = browser.find_element(By.TAG_NAME, "body").value_of_css_property("background-color")
        return sum(int(part) for part in colour.removeprefix("rgba(").split(",")[:3])

    assert brightness() > 700
    in_colours(browser, "dark")
    assert brightness() < 150
    one(browser, "#theme").click()
    assert brightness() > 700
    assert one(browser, "#theme").text == "Dark"


def test_everything_works_from_the_keyboard(browser: webdriver.Chrome) -> None:
    def focused() -> Any:
        return browser.switch_to.active_element

    def press(*keys: str) -> None:
        ActionChains(browser).send_keys(*keys).perform()

    press(Keys.TAB)
    assert focused().get_attribute("class") == "skip"
    assert focused().location["x"] >= 0
    press(Keys.ENTER)
    assert focused().get_attribute("id") == "content"
    seen = []
    for _ in range(40):
        press(Keys.TAB)
        seen.append(focused())
        if seen[-1].get_attribute("class") == "sort":
            break
    press(Keys.ENTER)
    header = browser.execute_script("return arguments[0].closest('th').getAttribute('aria-sort')", seen[-1])
    assert header == "ascending"
    browser.execute_script("document.querySelector('#sample-list summary').focus()")
    press(Keys.SPACE)
    assert one(browser, "#sample-list details").get_attribute("open")
    outline = focused().value_of_css_property("outline-style")
    assert outline != "none"


def test_print_opens_what_is_folded_and_folds_it_again(browser: webdriver.Chrome) -> None:
    browser.execute_script("dispatchEvent(new Event('beforeprint'))")
    opened = texts(browser, "#sample-list details[open] .answer")
    browser.execute_script("dispatchEvent(new Event('afterprint'))")
    assert len(opened) >= 12
    assert texts(browser, "#sample-list details[open]") == []
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": []})
    assert not one(browser, "nav").is_displayed()
    assert not one(browser, "#sample-filters").is_displayed()
    assert one(browser, TABLE).is_displayed()
