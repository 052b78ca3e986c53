"""The page of all splits: the numbers of all.json, links to each split's report, hostile names as text."""

from dataclasses import replace
from pathlib import Path

import pytest

from stin_pipe.stin.results.split_mean import mean_of_splits
from stin_pipe.stin.results.split_result import SplitResult
from stin_pipe.stin.results.verdict import Finding
from stin_pipe.workflows.report.splits import render_splits


@pytest.fixture
def value(made_report, tmp_path: Path):
    """Two splits of one run, as fuse-eval leaves them."""
    made = made_report.make_report(tmp_path, ("a", "b", "c"), models=False)
    other = made_report.make_report(tmp_path / "other", ("a", "b", "c"), models=False, seed=3).result
    other = replace(other, split="2", metrics=other.metrics | {"split": "2"})
    folder = made.run.path / "fuse-eval"
    folder.mkdir()
    page = folder / "report.html"
    mean = mean_of_splits([made.result, other], dataset="folder", report=str(page))
    page.write_text(render_splits(made.run.path.name, mean))
    return mean, folder


def test_the_page_lies_beside_its_numbers_and_links_to_each_split(value, browser) -> None:
    mean, folder = value
    page = folder / "report.html"
    browser.open(page, width=360, height=740)
    assert browser.errors == [] and browser.requests == [page.as_uri()]
    assert browser.run("document.documentElement.scrollWidth") == 360
    links = browser.run("[...document.querySelectorAll('main a')].map(a => a.href)")
    assert links == [(folder / f"split{name}" / "report.html").as_uri() for name in ("1", "2")]
    rows = browser.run(
        "[...document.querySelectorAll('tbody')].map(b => [...b.rows].map(r => "
        "[...r.cells].map(c => c.firstChild.textContent)))"
    )
    for row, stream in zip(rows[0], ("fused", "spatial", "temporal"), strict=True):
        assert row[:2] == [stream, f"{100 * mean[stream]['top1']:.1f}"]
    fused = [f"{100 * item['fused']['top1']:.1f}" for item in mean["splits"]]
    assert [row[2] for row in rows[1]] == fused
    spread = f"± {100 * mean['spread']['fused']['top1']:.1f}"
    assert spread in browser.run("document.querySelector('tr.fused').textContent")


def test_the_sentence_counts_in_how_many_splits_fusing_helps(made_report, tmp_path: Path) -> None:
    made = made_report.make_report(tmp_path, ("a", "b", "c"), models=False).result

    def judged(finding: Finding, *, is_above: bool) -> SplitResult:
        beats = made.verdict.beats_baseline | {"fused": is_above}
        return replace(made, verdict=replace(made.verdict, finding=finding, beats_baseline=beats))

    findings = [(Finding.FUSION_BETTER, True), (Finding.FUSION_WORSE, True), (Finding.AT_CHANCE, False)]
    splits = [judged(finding, is_above=is_above) for finding, is_above in findings]
    verdict = mean_of_splits(splits, dataset="folder", report="")["verdict"]
    counts = ("num_fusion_better", "num_fusion_worse", "num_above_baseline")
    assert [verdict[name] for name in counts] == [1, 1, 2]
    assert "fusing helps in 1 and hurts in 1 of 3 splits" in verdict["sentence"]
    assert verdict["sentence"].endswith("the fusion is more than guessing in 2 of 3 splits")


def test_weights_that_differ_between_splits_are_given_by_split(made_report, tmp_path: Path) -> None:
    """Chosen on held-out videos, each split has its own."""
    made = made_report.make_report(tmp_path, ("a", "b", "c"), models=False)
    for weights, common in (([0.4, 0.6], None), ([1.0, 1.5], [1.0, 1.5])):
        metrics = made.result.metrics | {"split": "2", "fusion_weights": weights}
        other = replace(made.result, split="2", metrics=metrics)
        mean = mean_of_splits([made.result, other], dataset="folder", report="")
        assert mean["fusion_weights"] == common
        assert mean["fusion_weights_by_split"] == {"1": [1.0, 1.5], "2": weights}


def test_names_are_text_and_one_split_has_no_spread(value) -> None:
    mean, _ = value
    hostile = mean | {"splits": [mean["splits"][0] | {"split": "<b>\"'/../x"}]}
    hostile["spread"] = {name: dict.fromkeys(metrics) for name, metrics in mean["spread"].items()}
    html = render_splits("<i>run</i>", hostile)
    assert "<b>" not in html and "<i>run" not in html and "±" not in html
    assert 'href="split%3Cb%3E%22%27/../x/report.html"' in html
