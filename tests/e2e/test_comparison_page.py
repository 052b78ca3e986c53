"""The page of `compare`, made through the command line and opened in a browser."""

import numpy as np
import pytest

from stin_pipe.stin.scoring.scores import Scores

NUM_VIDEOS = 40


@pytest.fixture(scope="module")
def compared(made_report, tmp_path_factory: pytest.TempPathFactory, call):
    """Two score files with hostile names of classes, videos and files, and what compare says of them."""
    folder = tmp_path_factory.mktemp("compared")
    classes = made_report.HOSTILE
    rng = np.random.default_rng(0)
    labels = rng.integers(0, len(classes), NUM_VIDEOS)
    paths = [folder / "<b>plain.npz", folder / f"{'x' * 100}.json"]
    for path, accuracy in zip(paths, (0.3, 0.8), strict=True):
        guesses = np.where(rng.random(NUM_VIDEOS) < accuracy, labels, (labels + 1) % len(classes))
        logits = np.eye(len(classes), dtype=np.float32)[guesses]
        Scores(
            ids=tuple(f"<i>{row}</i>" for row in range(NUM_VIDEOS)), labels=labels, class_names=classes,
            scores=logits, main_logits=logits, aux_logits=None, stream="scores",
        ).save(path)  # fmt: skip
    page = folder / "pages" / "compared.html"
    called = call("compare", *paths, "--html", page, "--json")
    assert called.code == 0, called.stderr
    return called.json, page, paths


def test_the_page_says_what_the_json_says(compared, browser) -> None:
    value, page, paths = compared
    assert value["html"] == str(page)
    browser.open(page)
    assert browser.errors == []
    assert browser.requests == [page.as_uri()]
    (table,) = value["tables"]
    cells = browser.run(
        "[...document.querySelectorAll('main table')].map(t => [...t.tBodies[0].rows]"
        ".map(r => [...r.cells].map(c => c.firstChild ? c.firstChild.textContent : '')))"
    )
    shown = [row[:3] for row in cells[0]]  # few classes, so no top-5
    assert shown == [
        [item["name"], f"{100 * item['top1']:.1f}", f"{100 * item['mean_class']:.1f}"]
        for item in table["standings"]
    ]
    assert shown[0][0] == paths[0].name
    (pair,) = table["comparisons"]
    difference = f"{100 * pair['top1']['difference']:+.1f}"
    counts = [str(pair[f"num_{key}"]) for key in ("both", "first_alone", "second_alone", "neither")]
    assert cells[1][0][1] == difference and cells[1][0][4:8] == counts
    rows = {row[0]: row[1:] for row in cells[2]}
    assert len(rows) == len(table["classes"])
    for item in table["classes"]:
        shares = [f"{100 * item['right'][standing['name']]:.1f}" for standing in table["standings"]]
        assert rows[item["class"]][:3] == [str(item["count"]), *shares]


def test_the_page_sorts_by_the_lead_and_fits_a_phone(compared, browser) -> None:
    _, page, _ = compared
    browser.open(page, width=360, height=740)
    assert browser.run("document.documentElement.scrollWidth") == 360
    browser.run("document.querySelector('table.sortable thead th:last-child button').click()")
    leads = browser.run(
        "[...document.querySelectorAll('table.sortable tbody td:last-child')].map(c => c.textContent)"
    )
    leads = [float(lead.replace("\u2212", "-")) for lead in leads]
    assert leads == sorted(leads) and leads[0] < leads[-1]


def test_the_page_replaces_none_of_the_results(compared, call) -> None:
    _, _, paths = compared
    before = paths[0].read_bytes()
    called = call("compare", *paths, "--html", paths[0])
    assert called.code == 1 and "this is one of the results; give another name" in called.stderr
    assert paths[0].read_bytes() == before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("thesis.tex", "a page's name must end in .html or .htm"),
        ("no/such/page.html", "there is no folder"),
    ],
)
def test_a_page_is_written_only_where_a_page_belongs(compared, call, tmp_path, name, message) -> None:
    _, _, paths = compared
    (tmp_path / "thesis.tex").write_text("years of work")
    called = call("compare", *paths, "--html", tmp_path / name)
    assert called.code == 1 and message in called.stderr
    assert (tmp_path / "thesis.tex").read_text() == "years of work" and not (tmp_path / "no").exists()


def test_what_is_no_result_is_said(compared, call, tmp_path) -> None:
    _, _, paths = compared
    missing = call("compare", paths[0], tmp_path / "none")
    assert missing.code == 1 and "none: no such run or score file; give another path" in missing.stderr
    folder = call("compare", paths[0], tmp_path)
    assert folder.code == 1 and "is a folder without run.json" in folder.stderr
