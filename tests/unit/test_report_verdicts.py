"""The page of made results: verdict, one stream alone, clips, links, and no number beside metrics.json."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stin_pipe.stin.results.split_result import SplitResult, judge_split
from stin_pipe.stin.scoring.fusion import FusedScores
from stin_pipe.stin.scoring.scores import Scores
from stin_pipe.workflows.report.clips import MAX_CLIP_BYTES, draw_clip
from stin_pipe.workflows.report.render import cell_videos, render_report
from stin_pipe.workflows.report.sources import source_links

CLASSES = ("bow", "jump", "run", "turn", "walk")
NUM = 60


@pytest.fixture(scope="module")
def made(made_report, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("verdicts")
    return made_report.make_report(folder, CLASSES, per_class=NUM // len(CLASSES), models=False)


def judged(made, right: Mapping[str, int]) -> SplitResult:
    """Return the result of streams that get so many of the videos right, spread over the classes."""
    base: Scores = made.result.streams["spatial"]
    order = np.argsort(np.arange(NUM) % (NUM // len(CLASSES)), kind="stable")
    parts = {}
    for stream, count in right.items():
        said = (base.labels + 1) % len(CLASSES)
        said[order[:count]] = base.labels[order[:count]]
        scores = np.zeros((NUM, len(CLASSES)), np.float32)
        scores[np.arange(NUM), said] = 2 + np.linspace(0, 1, NUM)
        parts[stream] = replace(base, stream=stream, scores=scores, main_logits=scores, model_digest="x")
    fused = parts.pop("fused", None)
    if fused is not None:
        shown = {"ids": fused.ids, "labels": fused.labels, "class_names": fused.class_names}
        fused = FusedScores(
            **shown, scores=fused.scores, stream="fused", weights=(1, 1.5), when="before_softmax"
        )
    return judge_split(
        "1",
        [*parts.values()],
        fused,
        made.manifest,
        protocol={"aux": {}},
        report="report.html",
        how_made=("Each video: 25 clips in 10 crops.",),
        trainings=made.result.trainings,
    )


VERDICTS = {
    "good": {"spatial": 20, "temporal": 40, "fused": 54},
    "worse": {"spatial": 8, "temporal": 52, "fused": 32},
    "chance": {"spatial": 12, "temporal": 14, "fused": 13},
    "alone": {"temporal": 40},
}


@pytest.mark.parametrize(
    ("name", "tone", "number"),
    [
        ("good", "good", "90.0"),
        ("worse", "bad", "53.3"),
        ("chance", "bad", "21.7"),
        ("alone", "neutral", "66.7"),
    ],
)
def test_the_page_begins_with_the_verdict_in_its_colour(made, name: str, tone: str, number: str) -> None:
    result = judged(made, VERDICTS[name])
    html = unescape(render_report(made.run, made.manifest, result, {}))
    begin = html.index('<p class="verdict')
    assert html[begin:].startswith(f'<p class="verdict {tone}"><strong>{number}<small>')
    assert result.verdict.sentence in html and result.verdict.next_step in html
    assert json.loads(json.dumps(result.metrics))["verdict"]["sentence"] == result.verdict.sentence


def test_one_stream_alone_has_a_page_without_fusion(made) -> None:
    result = judged(made, VERDICTS["alone"])
    assert "fused" not in result.metrics and result.metrics["fusion"] is None
    assert result.metrics["answer"] == "temporal" and result.metrics["comparisons"] == []
    html = render_report(made.run, made.manifest, result, {})
    assert "Is the difference significant?" not in html and 'id="agreement"' not in html
    assert "of the temporal stream" in html


class _Numbers(HTMLParser):
    """Numbers in the text of a page; not those of names, axes, and what pictures say of themselves."""

    SKIPPED = ("script", "style", "svg", "bdi", "footer", "article")

    def __init__(self) -> None:
        super().__init__()
        self.depth = 0
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.depth += tag in self.SKIPPED

    def handle_endtag(self, tag: str) -> None:
        self.depth -= tag in self.SKIPPED

    def handle_data(self, data: str) -> None:
        if not self.depth:
            self.found += re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.])", data.replace("\u2212", ""))


def _numbers_of(value: Any) -> Iterator[float]:
    """Every number of a JSON value, those in its texts, and how long its lists are."""
    if isinstance(value, dict):
        for item in value.values():
            yield from _numbers_of(item)
    elif isinstance(value, list):
        yield len(value)
        for item in value:
            yield from _numbers_of(item)
    elif isinstance(value, str):
        yield from map(float, re.findall(r"\d+(?:\.\d+)?", value))
    elif isinstance(value, (int, float)):
        yield abs(float(value))


def _unknown(html: str, metrics: Mapping[str, Any]) -> list[str]:
    parser = _Numbers()
    parser.feed(html)
    values = np.array([*_numbers_of(json.loads(json.dumps(metrics)))])
    # 0 to 100 and 95 % are words of the page.
    values = np.concatenate([values, 100 * values, [0, 1, 2, 95, 100]])
    unknown = []
    for text in parser.found:
        digits = len(text.partition(".")[2])
        if not np.isclose(np.round(values, digits), float(text), atol=10.0**-digits * 0.51).any():
            unknown.append(text)
    return unknown


def test_every_number_of_the_page_is_in_its_metrics(made) -> None:
    result = judged(made, VERDICTS["worse"])
    html = render_report(made.run, made.manifest, result, {})
    assert _unknown(html, result.metrics) == []
    # The check sees a number that is not there.
    assert _unknown(html.replace("<main>", "<main><p>4321.7 of 98765</p>"), result.metrics) == [
        "4321.7",
        "98765",
    ]


def test_every_cell_leads_to_its_videos(made) -> None:
    result = judged(made, VERDICTS["worse"])
    cells = cell_videos(result.answer)
    assert sorted(video for cell in cells for video in cell.ids) == sorted(result.answer.ids)
    html = render_report(made.run, made.manifest, result, {})
    assert [len(cell.ids) for cell in cells] == [
        int(re.search(f'href="#{cell.place}" tabindex="-1">(\\d+)<', html)[1]) for cell in cells
    ]
    assert all(html.count(f'id="{cell.place}"') == 1 for cell in cells)


def test_a_clip_is_whole_small_and_shows_what_is_stored(made, tmp_path: Path) -> None:
    import base64

    import cv2

    from stin_pipe.stin.shards.reader import ShardReader

    reader = ShardReader(made.run.extract, made.manifest)
    clip = draw_clip(reader, next(iter(made.manifest.videos.values())))
    reader.close()
    assert clip.startswith("data:video/mp4;base64,")
    content = base64.b64decode(clip.partition(",")[2])
    assert len(content) < MAX_CLIP_BYTES
    (tmp_path / "clip.mp4").write_bytes(content)
    video = cv2.VideoCapture(str(tmp_path / "clip.mp4"))
    whole, picture = video.read()
    assert whole and picture.shape == (168, 448, 3)
    square = picture[84, 30, ::-1].astype(int)  # (220, 120, 40) in the middle of the first frame
    assert np.abs(square - (220, 120, 40)).max() < 30


def test_links_lead_to_listed_files_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a name with signs of an address, of one outside, of one through a link, and of one that is gone."""
    from types import SimpleNamespace

    from stin_pipe.stin.shards.run_dir import RunDir
    from stin_pipe.workflows.report import sources

    videos = tmp_path / "videos"
    videos.mkdir()
    (tmp_path / "secret.avi").touch()
    (videos / "a #1?%.avi").touch()
    (videos / "link.avi").symlink_to(tmp_path / "secret.avi")
    paths = ("a #1?%.avi", "../secret.avi", "link.avi", "gone.avi")
    lines = [SimpleNamespace(video=SimpleNamespace(id=path, path=path)) for path in paths]
    listing = SimpleNamespace(root=str(videos), lines=lines)
    ledger = SimpleNamespace(plans=[1], listing=listing)
    monkeypatch.setattr(sources, "read_ledger", lambda _extract: ledger)
    run = RunDir(path=tmp_path / "run")
    links = source_links(run, run.fusion("1"), [*paths, "unknown"])
    assert links == {"a #1?%.avi": "../../../videos/a%20%231%3F%25.avi"}
