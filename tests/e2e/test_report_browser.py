"""The report in a real browser: nothing fetched, nothing logged, tables that sort, searches that find."""

from pathlib import Path

import numpy as np
import pytest

NAMES = [f"{verb} {thing}" for verb in ("Catch", "Throw", "Turn") for thing in map(chr, range(97, 123))]
CLASSES = [*NAMES, *(f"Play {number:02d}" for number in range(101 - len(NAMES)))]
# What sticks out of the window, apart from what lies in a box that scrolls.
OVERFLOWING = """[...document.querySelectorAll('body *')]
  .filter(e => !e.parentElement.closest('.scroll, nav ul'))
  .filter(e => e.getBoundingClientRect().right > innerWidth + 1)
  .map(e => e.tagName + ' ' + e.textContent.slice(0, 40))"""
PICTURES = "[...document.images].map(image => image.naturalWidth)"


@pytest.fixture(scope="module")
def large(made_report, tmp_path_factory: pytest.TempPathFactory):
    return made_report.make_report(tmp_path_factory.mktemp("large"), CLASSES, per_class=2, tuned=True)


@pytest.fixture(scope="module")
def hostile(made_report, tmp_path_factory: pytest.TempPathFactory):
    return made_report.make_report(tmp_path_factory.mktemp("hostile"), made_report.HOSTILE)


def require_quiet(browser, path: Path) -> None:
    """Nothing in the console, and no request but for the page itself."""
    assert browser.errors == []
    assert [url for url in browser.requests if not url.startswith("data:")] == [path.as_uri()]


@pytest.mark.parametrize("which", ["large", "hostile"])
@pytest.mark.parametrize("dark", [False, True])
def test_page_opens_quietly_with_its_pictures(browser, request, which: str, dark: bool) -> None:
    made = request.getfixturevalue(which)
    browser.open(made.path, dark=dark)
    require_quiet(browser, made.path)
    widths = browser.run(PICTURES)
    assert len(widths) > 50 and min(widths) > 0
    background = browser.run("getComputedStyle(document.body).backgroundColor")
    channels = [int(part) for part in background[4:-1].split(",")]
    assert max(channels) < 60 if dark else min(channels) > 200  # its style is in force


@pytest.mark.parametrize("which", ["large", "hostile"])
def test_nothing_sticks_out_on_a_phone(browser, request, which: str) -> None:
    browser.open(request.getfixturevalue(which).path, width=360, height=740)
    assert browser.run("document.documentElement.scrollWidth") == 360
    assert browser.run(OVERFLOWING) == []


def test_hostile_names_are_shown_as_text(browser, hostile, made_report) -> None:
    browser.open(hostile.path)
    shown = browser.run("[...document.querySelectorAll('#classes tbody th')].map(e => e.textContent)")
    assert sorted(shown) == sorted(made_report.HOSTILE)
    assert browser.run("document.scripts.length + document.styleSheets.length") == 2
    assert browser.run("document.querySelector('footer').getBoundingClientRect().height") > 0
    browser.run("document.querySelector('#matrix tbody td').focus()")
    truth = browser.run("document.querySelector('#matrix-readout bdi').textContent")
    assert truth == made_report.HOSTILE[0]  # the script that moves names about keeps them text


def test_the_class_table_sorts_by_each_column(browser, large) -> None:
    browser.open(large.path)
    column = "[...document.querySelectorAll('#classes tbody tr')].map(r => r.cells[{}].textContent)"
    press = "document.querySelector('#classes thead th:nth-child({}) button').click()"
    browser.run(press.format(8))  # temporal
    values = [float(value) for value in browser.run(column.format(7))]
    assert values == sorted(values) and values[0] < values[-1]
    browser.run(press.format(8))
    assert [float(value) for value in browser.run(column.format(7))] == values[::-1]
    sort = browser.run("[...document.querySelectorAll('#classes th[aria-sort]')].map(e => e.ariaSort)")
    assert sort == ["descending"]
    browser.run(press.format(1))
    assert browser.run(column.format(0)) == sorted(CLASSES, key=str.lower)


def test_the_search_finds_a_class(browser, large) -> None:
    browser.open(large.path)
    search = "(() => { const e = document.getElementById('%s'); e.value = '%s';"
    search += " e.dispatchEvent(new Event('input')); })()"
    browser.run(search % ("class-search", "throw q"))
    assert browser.run(
        "[...document.querySelectorAll('#classes tbody tr')].filter(r => r.checkVisibility())"
        ".map(r => r.cells[0].textContent)"
    ) == ["Throw q"]
    assert browser.run("document.getElementById('class-found').textContent") == "1 of 101 classes"
    browser.run(search % ("matrix-search", "throw q"))
    assert browser.run(
        "[...document.querySelectorAll('#matrix tr.on th, #matrix thead .oncol')].map(e => e.textContent)"
    ) == ["Throw q", "Throw q"]
    found = large.result.fused
    label = CLASSES.index("Throw q")
    right = int((found.scores.argmax(1) == label)[found.labels == label].sum())
    readout = browser.run("document.getElementById('matrix-readout').textContent")
    assert readout == f"class Throw q: {right} of 2 videos correct"


def test_the_matrix_tells_truth_answer_and_count_by_pointer_and_by_key(browser, large) -> None:
    browser.open(large.path)
    found = large.result.fused
    truth, guess = int(found.labels[0]), int(found.scores[0].argmax())
    count = int(((found.labels == truth) & (found.scores.argmax(1) == guess)).sum())
    told = f"true class {CLASSES[truth]}, predicted {CLASSES[guess]}: {count} of 2 videos"
    read = "document.getElementById('matrix-readout').textContent"
    browser.hover(f"#matrix tbody tr:nth-child({truth + 1}) td:nth-child({guess + 2})")
    assert browser.run(read) == told
    browser.run("document.querySelector('#matrix td[tabindex=\"0\"]').focus()")
    for _ in range(truth):
        browser.press("ArrowDown")
    for _ in range(guess):
        browser.press("ArrowRight")
    browser.press("ArrowLeft")
    assert browser.run(read).startswith(
        f"true class {CLASSES[truth]}, predicted {CLASSES[max(0, guess - 1)]}: "
    )
    browser.press("ArrowUp" if truth else "ArrowLeft")
    assert browser.run("document.activeElement.tagName") == "TD"


@pytest.mark.parametrize("order", ["name", "accuracy", "list"])
def test_reordering_the_matrix_keeps_its_counts(browser, large, order: str) -> None:
    browser.open(large.path)
    browser.run(
        "(() => { const e = document.getElementById('matrix-order');"
        f" e.value = '{order}'; e.dispatchEvent(new Event('change')); }})()"
    )
    rows = browser.run("[...document.querySelectorAll('#matrix tbody th')].map(e => e.textContent)")
    heads = browser.run(
        "[...document.querySelectorAll('#matrix thead th:not(.total)')].map(e => e.textContent)"
    )
    counts = browser.run(
        "[...document.querySelectorAll('#matrix tbody tr')].map(r => "
        "[...r.cells].slice(1).map(c => Number(c.textContent)))"
    )
    expected = np.zeros((101, 101), int)
    np.add.at(expected, (large.result.fused.labels, large.result.fused.scores.argmax(1)), 1)
    labels = [CLASSES.index(name) for name in rows]
    assert rows == heads and len(set(rows)) == 101
    assert (np.array(counts)[:, :-1] == expected[np.ix_(labels, labels)]).all()
    assert (np.array(counts)[:, -1] == expected[labels].sum(1)).all()
    sums = browser.run("[...document.querySelectorAll('#matrix tfoot td')].map(e => Number(e.textContent))")
    assert sums == [*expected[:, labels].sum(0), expected.sum()]
    shares = np.diag(expected)[labels] / 2
    assert {
        "list": rows == CLASSES,
        "name": rows == sorted(CLASSES, key=str.lower),
        "accuracy": (np.diff(shares) >= 0).all() and shares[0] < shares[-1],
    }[order]


def test_without_scripts_all_is_there_to_read(browser, large) -> None:
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(large.path)
        assert browser.run("document.querySelectorAll('#classes button').length") == 0
        assert browser.run("document.getElementById('class-tools').checkVisibility()") is False
        text = browser.run("document.body.innerText")
        closed = browser.run("document.body.textContent")  # stills lie folded under their clip
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)
    assert all(name in text for name in CLASSES)
    assert "Full colour of flow" in closed and "How the fusion weights were chosen" in text


def test_every_text_is_legible(browser, large) -> None:
    """Contrast of at least 4.5 (WCAG 2.2 AA) of all text, the matrix's too, light and dark."""
    script = """(() => {
      const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number)
        .map((v, i) => text.startsWith('color(srgb') && i < 3 ? v * 255 : v);
      const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
        .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
      const ground = (e) => { for (; e; e = e.parentElement) {
        const c = parse(getComputedStyle(e).backgroundColor); if (c.length === 3 || c[3] === 1) return c; }
        return parse(getComputedStyle(document.body).backgroundColor); };
      const bad = [];
      for (const e of document.querySelectorAll('body *')) {
        const own = [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim());
        if (!own || e.closest('svg, script')) continue;
        const [a, b] = [light(parse(getComputedStyle(e).color)), light(ground(e))].sort((x, y) => y - x);
        if ((a + .05) / (b + .05) < 4.5) bad.push(e.tagName + ' ' + e.textContent.slice(0, 30));
      }
      return bad; })()"""
    for dark in (False, True):
        browser.open(large.path, dark=dark)
        assert browser.run(script) == []


def test_a_screen_reader_finds_names(browser, large) -> None:
    """The accessibility tree: nothing without a name, regions told apart, buttons called by their column."""
    browser.open(large.path)
    nodes = browser.call("Accessibility.getFullAXTree")["nodes"]
    named = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in nodes
        if not node.get("ignored")
    ]
    told = ("button", "link", "image", "region", "table", "grid", "searchbox", "combobox", "navigation")
    assert [role for role, name in named if role in told and not name.strip()] == []
    regions = [name for role, name in named if role == "region"]
    assert len(regions) == len(set(regions)) > 10
    buttons = [name for role, name in named if role == "button"]
    buttons = buttons[buttons.index("class") :]  # after those of the clips
    assert buttons[:5] == ["class", "videos", "recall", "precision", "F1"]
    assert [name for role, name in named if role == "grid"] == [
        "Confusion matrix: rows are true classes, columns are predictions"
    ]


def test_a_cell_opens_its_videos_and_clips_play(browser, large) -> None:
    browser.open(large.path)
    truth = int(large.result.fused.labels[0])
    guess = int(large.result.fused.scores[0].argmax())
    place = f"cell-{truth}-{guess}"
    seen = f"document.getElementById('{place}').checkVisibility()"
    assert browser.run(seen) is False
    browser.run(f"document.querySelector('a[href=\"#{place}\"]').click()")
    browser.run("new Promise(done => setTimeout(done, 200))")
    assert browser.run(seen) is True
    ids = browser.run(f"[...document.querySelectorAll('#{place} li')].map(e => e.textContent.trim())")
    assert large.result.fused.ids[0] in ids
    state = "[...document.querySelectorAll('video')].map(v => [v.error, v.videoWidth > 0, v.loop, v.muted])"
    clips = browser.run(state)
    assert len(clips) >= 6 and clips == [[None, True, True, True]] * len(clips)
    require_quiet(browser, large.path)


def test_a_table_that_is_cut_off_says_so_on_a_phone_and_shows_the_fusion_first(browser, large) -> None:
    browser.open(large.path, width=390, height=844)
    browser.run("new Promise(done => setTimeout(done, 200))")
    wide = browser.run(
        "[...document.querySelectorAll('.scroll')].filter(e => e.checkVisibility())"
        ".map(e => [e.scrollWidth > e.clientWidth + 1, e.previousElementSibling.checkVisibility()])"
    )
    assert any(cut for cut, _ in wide) and all(cut == told for cut, told in wide)
    first = "document.querySelector('#classes tbody td:nth-child(3)').getBoundingClientRect().right"
    assert browser.run(first) <= 390
