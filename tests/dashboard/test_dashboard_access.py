"""The page for everybody: by keyboard, with a screen reader, on a phone, in the dark, in English and Spanish."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import pytest
from selenium.webdriver.common.keys import Keys
from tests.dashboard.browser import Page, publish
from tests.dashboard.conftest import PageOpener
from tests.events import line
from tests.faults.harness import Daemon, a_daemon, eventually

SYNC = "integration.sync."
LONG = "x" * 400

# Texts whose contrast with what is behind them is below WCAG's AA. Colours go through a canvas, which knows all forms.
LOW_CONTRAST: Final = """
const canvas = Object.assign(document.createElement("canvas"), { width: 1, height: 1 });
const context = canvas.getContext("2d", { willReadFrequently: true });
const paint = (colours) => {
  context.clearRect(0, 0, 1, 1);
  for (const colour of colours) { context.fillStyle = colour; context.fillRect(0, 0, 1, 1); }
  return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
};
const light = (colour) => colour.map((c) => c / 255).map((c) => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4)
  .reduce((sum, c, i) => sum + c * [.2126, .7152, .0722][i], 0);
const found = [];
for (const node of document.querySelectorAll("body *")) {
  const text = [...node.childNodes].filter((one) => one.nodeType === 3 && one.data.trim());
  if (!text.length || !node.checkVisibility() || node.closest("script, style, noscript, option")) continue;
  const behind = [];
  for (let up = node; up; up = up.parentElement) behind.unshift(getComputedStyle(up).backgroundColor);
  const style = getComputedStyle(node);
  const [a, b] = [paint(behind), paint([...behind, style.color])].map(light).sort((x, y) => y - x);
  const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
  const ratio = (a + .05) / (b + .05);
  if (ratio < (large ? 3 : 4.5)) found.push([node.innerText.slice(0, 40), style.color, Math.round(ratio * 100) / 100]);
}
return found;
"""
FOCUSABLE: Final = (
    "const all = [...document.querySelectorAll('a[href], button, input, select, summary, [tabindex=\"0\"]')];"
    "const reachable = all.filter((one) => one.checkVisibility());"
)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon whose page has something to show in every place, with texts as long as they get."""
    with a_daemon(tmp_path_factory.mktemp("daemon"), "none") as one:
        one.start()
        fill(one)
        yield one


@pytest.fixture
def page(page_of: PageOpener, daemon: Daemon) -> Page:
    page = page_of(daemon)
    page.js("localStorage.clear()")
    page.load()
    eventually(lambda: len(page.rows("events")) >= 6, "the events are there")
    eventually(lambda: page.rows("ledger"), "the ledger is there")
    return page


def fill(daemon: Daemon) -> None:
    order = {"order_number": LONG, "external_id": LONG, "reason": LONG}
    publish(
        daemon,
        line(1, SYNC + "started", data={"integration_type": LONG}),
        line(2),
        line(3, SYNC + "order.rejected", data=order),
        line(4, SYNC + "order.updated"),
        line(5, SYNC + "failed", 14, data={"error": LONG}),
        line(6, SYNC + "completed", 15, data={"total_orders": 10**15, "created_orders": 10**15}),
        line(7, LONG),
        b"{",
    )


def overflow(page: Page) -> int:
    """Return by how many pixels the page is wider than its window."""
    return int(page.js("return document.documentElement.scrollWidth - innerWidth"))


@pytest.mark.parametrize("language", ["en", "es"])
def test_no_width_needs_horizontal_scrolling(page: Page, language: str) -> None:
    page.put("language", language)
    page.js("for (const one of document.querySelectorAll('details')) one.open = true")
    for pixels in (320, 360, 412, 700, 950, 1280, 1920):
        page.width(pixels)
        assert overflow(page) <= 0, pixels


def test_the_keyboard_reaches_everything_and_shows_where_it_is(page: Page) -> None:
    expected = page.js(FOCUSABLE + "return reachable.length")
    page.js("document.activeElement.blur()")
    order: list[int] = []
    for _ in range(expected):
        page.tab()
        order.append(page.js(FOCUSABLE + "return reachable.indexOf(document.activeElement)"))
        outline = page.js("return getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", page.js("return document.activeElement.outerHTML")
    assert order == list(range(expected))
    assert expected > 15


def test_the_skip_link_leads_to_the_events_and_details_open_by_keyboard(page: Page) -> None:
    page.js("document.activeElement.blur()")
    page.tab()
    assert page.js("return document.activeElement.className") == "skip"
    assert page.js("return document.activeElement.getBoundingClientRect().top") >= 0
    page.press(Keys.ENTER)
    assert page.js("return document.activeElement.id") == "events-title"
    page.js("document.querySelector('#events summary').focus()")
    page.press(Keys.ENTER)
    page.shows('"id": "event-', "events")


def test_every_control_and_picture_has_a_name_and_every_id_is_one(page: Page) -> None:
    def nameless(selector: str, name: str) -> list[str]:
        code = f"return [...document.querySelectorAll('{selector}')]"
        code += f".filter((one) => one.checkVisibility() && !({name}))"
        found: list[str] = page.js(code + ".map((one) => one.outerHTML.slice(0, 80))")
        return found

    assert nameless("input, select", "one.ariaLabel || [...one.labels].some((label) => label.innerText.trim())") == []
    assert nameless("button, a, summary", "one.textContent.trim()") == []
    assert nameless("[role=img]", "one.ariaLabel || one.querySelector('title')?.textContent.trim()") == []
    assert nameless("section, nav, [role=group]", "one.ariaLabel || one.getAttribute('aria-labelledby')") == []
    lost = "one.getAttribute('aria-labelledby').split(' ').every((id) => document.getElementById(id))"
    assert nameless("[aria-labelledby]", lost) == []
    ids: list[str] = page.js("return [...document.querySelectorAll('[id]')].map((one) => one.id)")
    assert len(ids) == len(set(ids))


def test_landmarks_headings_and_tables_tell_the_page_to_a_screen_reader(page: Page) -> None:
    for landmark in ("header", "main", "footer", "nav"):
        assert page.js(f"return document.querySelectorAll('{landmark}').length") == 1
    levels: list[str] = page.js("return [...document.querySelectorAll('h1, h2, h3')].map((one) => one.localName)")
    assert levels[0] == "h1"
    assert set(levels[1:]) == {"h2"}
    # Only what is news is announced, not what counts up every two seconds.
    assert page.js("return [...document.querySelectorAll('[role=status], [aria-live]')].map((x) => x.innerText)") == [
        page.text("headline")
    ]
    page.width(360)  # where rows are no table to the eye, they still are one
    for role, selector in (("table", "table"), ("row", "tr"), ("columnheader", "th"), ("cell", "td")):
        assert page.js(f"return [...document.querySelectorAll('{selector}')].every((x) => x.role === '{role}')")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_enough_contrast(page: Page, scheme: str) -> None:
    page.prefers(color_scheme=scheme, reduced_motion="reduce")
    background = page.js("return getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(17, 19, 22)") == (scheme == "dark")
    low: list[Any] = []
    for level in ("good", "warn", "bad"):
        page.js("document.getElementById('hero').className = 'card hero ' + arguments[0]", level)
        low += page.js(LOW_CONTRAST)
    assert low == []


def test_nothing_moves_for_who_wants_less_motion(page: Page, daemon: Daemon) -> None:
    moving = "return document.getAnimations().filter((one) => one.playState === 'running').length"
    page.prefers(reduced_motion="reduce")
    before = page.numbers()[0]
    publish(daemon, line(8))
    eventually(lambda: page.numbers()[0] == before + 1, "it is there")
    assert page.js(moving) == 0
    page.prefers(reduced_motion="no-preference")
    publish(daemon, line(9))
    eventually(lambda: page.js(moving) > 0, "the new row is marked")


def test_it_speaks_the_browsers_language_and_remembers_another_choice(page: Page) -> None:
    page.speaks("es-AR")
    page.load()
    page.shows("Los eventos se guardan")
    page.shows("en directo", "stream")
    assert page.js("return document.documentElement.lang") == "es"
    eventually(lambda: "pedido creado" in page.text("events"), "the events are told in Spanish")
    page.put("language", "en")
    page.shows("Events are stored")
    page.load()
    page.shows("Events are stored")
    assert page.js("return [document.documentElement.lang, document.getElementById('language').value]") == ["en", "en"]


def test_both_languages_have_every_text_and_no_other(page: Page) -> None:
    shape = "(of) => Object.entries(of).map(([key, x]) => typeof x === 'object' ? [key, Object.keys(x).sort()] : key)"
    english, spanish = page.js(f"return ['en', 'es'].map((lang) => ({shape})(TEXT[lang]).map(String).sort())")
    assert english == spanish
    holes = "Object.fromEntries(Object.entries(TEXT[lang]).map(([key, x]) => [key, String(x).match(/{\\\\w+}/g)]))"
    english, spanish = page.js("return ['en', 'es'].map((lang) => (" + holes.replace("\\\\", "\\") + "))")
    assert english == spanish
    used = set(page.js("return [...document.querySelectorAll('[data-t]')].map((x) => x.dataset.t)"))
    assert used <= set(english)
