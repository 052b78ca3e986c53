"""The reports of EgoGestAR and of the demo, made by the commands and opened in a real browser."""

from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
WIDTHS = "[...document.images].map(image => image.naturalWidth)"
SEARCH = """(() => { const e = document.getElementById('class-search'); e.value = %r;
  e.dispatchEvent(new Event('input')); })()"""
SHOWN = """[...document.querySelectorAll('#classes tbody tr')].filter(r => r.checkVisibility())
  .map(r => r.cells[0].textContent)"""


def require_whole(browser, page: Path, some_class: str) -> None:
    """Open a report on a phone and on a desk, light and dark; sort it, search it, count its pictures."""
    for width, dark in ((360, False), (1200, True), (1200, False)):
        browser.open(page, width=width, height=800, dark=dark)
        assert browser.errors == []
        assert [url for url in browser.requests if not url.startswith("data:")] == [page.as_uri()]
        assert browser.run("document.documentElement.scrollWidth") == width
    widths = browser.run(WIDTHS)
    assert len(widths) >= 3 * 4 * 5 and min(widths) > 0  # at least three videos: frames, flow, two maps
    browser.run("document.querySelector('#classes thead th:nth-child(5) button').click()")
    values = browser.run(
        "[...document.querySelectorAll('#classes tbody tr')].map(r => r.cells[4].textContent)"
    )
    assert [float(value) for value in values] == sorted(float(value) for value in values)
    browser.run(SEARCH % some_class)
    assert browser.run(SHOWN) == [some_class]


@pytest.mark.shared_data
def test_the_report_of_egogestar(shared_data: Path, tmp_path: Path, call, browser) -> None:
    run, data = tmp_path / "run", shared_data / "egogestar"
    short = ("--no-flip", "--recipe", "small", "--epochs", "2", "--batch-size", "16")
    for command in (
        ("extract", "--videos", data / "videos", "--splits", data / "lists", "--short-side", "64"),
        ("train-spatial", *short),
        ("train-temporal", *short),
    ):
        called = call(*command, "--run", run, "--json")
        assert called.code == 0, called.stderr
    called = call("fuse-eval", "--run", run, "--segments", "4", "--crops", "1", "--json")
    assert called.code == 0, called.stderr
    assert called.json["num_videos"] == called.json["num_listed"] == 68
    require_whole(browser, Path(called.json["report"]), "circlecc")


def test_the_report_of_the_demo(tmp_path: Path, call, browser) -> None:
    called = call("demo", "--run", tmp_path / "demo", "--json")
    assert called.code == 0, called.stderr
    assert called.json["fused"] > 0.9
    require_whole(browser, tmp_path / "demo" / "fuse-eval" / "split1" / "report.html", "green-left")
