"""The report as a browser shows it: nothing fetched, nothing run, sorted by mouse and keyboard, read in any light."""

import json
import os

import pytest

from src.report import render_comparison, render_html
from tests.browser import chromium, find_browser
from tests.report_examples import example_comparison, example_results, undefined

pytestmark = pytest.mark.slow

DESKTOP, PHONE = {"width": 1200, "height": 800}, {"width": 390, "height": 844}
PLANTED = "<script>document.title = 'owned'</script><img src=x onerror=\"document.title = 'owned'\">"
SENTENCE = (
    "Fine-tuning made the model more accurate; how well it knows when it is wrong did not clearly change; its stated "
    "confidence is more trustworthy."
)
# The smallest contrast of any text with what it stands on, and that text; transparent grounds are looked through.
CONTRAST = """(() => {
  document.querySelectorAll('details').forEach(one => { one.open = true; });
  const parts = color => color.match(/[\\d.]+/g).map(Number);
  const light = color => { const [r, g, b] = parts(color).map(v => v / 255)
    .map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b; };
  const ground = e => { for (; e; e = e.parentElement) {
    const color = getComputedStyle(e).backgroundColor; if ((parts(color)[3] ?? 1) > 0) return color; }
    return 'rgb(255, 255, 255)'; };
  let worst = [99, ''];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const e = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || ['SCRIPT', 'STYLE'].includes(e.tagName)) continue;
    if (!e.getClientRects().length) continue;
    const style = getComputedStyle(e), ink = e instanceof SVGElement ? style.fill : style.color;
    const [a, b] = [light(ink), light(ground(e))].sort((x, y) => y - x), ratio = (a + .05) / (b + .05);
    if (ratio < worst[0]) worst = [ratio, ink + ' on ' + ground(e) + ': ' + texts.currentNode.data.slice(0, 40)];
  }
  return worst; })()"""
LAST_TABLE_CELLS = """(() => [...document.querySelectorAll('#subjects tbody tr')]
  .map(row => row.cells[COLUMN].textContent.trim()))()"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    executable = find_browser()
    if executable is None and os.environ.get("CONFPROBE_NEEDS_BROWSER"):
        pytest.fail("CONFPROBE_NEEDS_BROWSER is set and there is no Chromium (Debian: apt-get install chromium)")
    if executable is None:
        pytest.skip("needs Chromium (Debian: apt-get install chromium)")
    with chromium(executable, tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A usual report; one with texts that would like to run; one whose subjects are worth sorting."""
    folder = tmp_path_factory.mktemp("pages")
    usual = example_results(positions=("last_prompt", "last_answer")) | {"verdict": [SENTENCE, "Another sentence."]}
    sorting = example_results(subjects=4, tuned=False)
    base = sorting["variants"]["base"]
    for place, n in enumerate((9, 1000, 100, 25)):
        base["accuracy"][f"subject {place}"]["n"] = n
        base["scores"]["probe"][f"subject {place}"]["auroc"] = {
            "value": (0.9, -0.2, 1.1, 0)[place], "low": 0.0, "high": 1.0
        }  # fmt: skip
    base["scores"]["probe"]["subject 3"]["auroc"] = undefined()
    results = {
        "usual": usual,
        "planted": example_results(text=PLANTED, name=f"</title></style>{PLANTED}"),
        "sorting": sorting,
    }
    written = {name: render_html(content) for name, content in results.items()}
    written["compared"] = render_comparison(example_comparison(PLANTED))
    for name, text in written.items():
        (folder / f"{name}.html").write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("name", ["usual", "planted", "compared"])
def test_nothing_is_fetched_nothing_complains_and_the_page_is_as_wide_as_the_window(browser, pages, name, dark, size):
    browser.open(pages / f"{name}.html", dark=dark, **size)
    assert browser.asked_for() == [(pages / f"{name}.html").as_uri()]
    assert browser.complaints() == []
    assert browser.run("document.documentElement.scrollWidth") <= size["width"]
    ratio, where = browser.run(CONTRAST)
    assert ratio >= 4.5, where
    browser.run("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    assert browser.run("document.documentElement.scrollWidth") <= size["width"]


def test_a_planted_script_is_text(browser, pages):
    browser.open(pages / "planted.html", **DESKTOP)
    assert "owned" in browser.run("document.title")  # as text, in the name of the run
    assert browser.run("document.title") != "owned"
    assert browser.run("document.scripts.length") == 1
    assert browser.run("document.images.length") == 0
    shown = browser.run("document.body.textContent")
    assert shown.count(PLANTED) > 20
    drawn = browser.run("[...document.querySelectorAll('svg text')].map(e => e.textContent).join(' ')")
    assert "<script>" in drawn


def test_the_page_itself_refuses_scripts_that_are_not_its_own(browser, pages):
    browser.open(pages / "usual.html", **DESKTOP)
    browser.run("""(() => { const one = document.createElement('script'); one.textContent = 'window.ran = true';
                    document.body.append(one); })()""")
    assert browser.run("window.ran === undefined")
    assert browser.complaints()


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_first_screen_holds_the_answer_and_four_numbers(browser, pages, size):
    browser.open(pages / "usual.html", **size)
    assert browser.run("document.querySelector('h1').textContent") == SENTENCE
    bottoms = browser.run("[...document.querySelectorAll('.card')].map(e => e.getBoundingClientRect().bottom)")
    assert len(bottoms) == 4
    assert max(bottoms) <= size["height"]


def test_tables_sort_both_ways_by_mouse_and_by_keyboard(browser, pages):
    def cells(column):
        return browser.run(LAST_TABLE_CELLS.replace("COLUMN", str(column)))

    browser.open(pages / "sorting.html", **DESKTOP)
    head = "#subjects thead th:nth-child({}) button"
    browser.click(head.format(3))
    assert cells(2) == ["9 (few)", "25 (few)", "100", "1000"]
    browser.run(f"document.querySelector({json.dumps(head.format(6))}).focus()")
    browser.press("Enter")
    assert [cell.split()[0] for cell in cells(5)] == ["-.200", ".900", "1.100", "undefined"]
    assert browser.run("document.querySelector('#subjects thead th:nth-child(6)').ariaSort") == "ascending"
    browser.press("Enter")
    assert [cell.split()[0] for cell in cells(5)] == ["1.100", ".900", "-.200", "undefined"]
    assert browser.run("document.querySelector('#subjects thead th:nth-child(6)').ariaSort") == "descending"
    assert browser.run("document.querySelectorAll('#subjects thead [aria-sort]').length") == 1
    browser.click(head.format(1))
    assert cells(0) == [f"subject {place}" for place in range(4)]


def test_the_keyboard_comes_to_the_numbers_first(browser, pages):
    browser.open(pages / "usual.html", **DESKTOP)
    browser.press("Tab")
    assert browser.run("document.activeElement.getAttribute('href')") == "#main"
    assert browser.run("document.activeElement.getBoundingClientRect().left") >= 0
    assert browser.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_paper_is_light_and_everything_on_it_is_open(browser, pages):
    browser.open(pages / "usual.html", width=800, height=1100, dark=True, paper=True)
    assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    hidden = "[...document.querySelectorAll('details dd, details td')].filter(e => !e.checkVisibility()).length"
    assert browser.run(hidden) == 0
    ratio, where = browser.run(CONTRAST)
    assert ratio >= 4.5, where


def test_headings_are_in_order_and_figures_have_words(browser, pages):
    browser.open(pages / "usual.html", **DESKTOP)
    levels = browser.run("[...document.querySelectorAll('h1, h2, h3, h4')].map(e => Number(e.tagName[1]))")
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip([0, *levels], levels, strict=False))
    figures = browser.run("[...document.querySelectorAll('svg')].map(e => e.getAttribute('aria-label'))")
    assert len(figures) > 10
    assert all(figures)
    assert browser.run("document.documentElement.lang") == "en"
    ids = browser.run("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))
