"""The report: counts that match the scores, every name from outside shown as text, charts in their box."""

import base64
import hashlib
import json
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from stin_pipe.stin.results.examples import choose_rows
from stin_pipe.stin.results.numbers import p_value, percent, points
from stin_pipe.stin.results.trained import read_training
from stin_pipe.workflows.report.charts import HEIGHT, WIDTH, line_chart, reliability_chart, training_charts
from stin_pipe.workflows.report.pictures import (
    NUM_TILES,
    TILE_PX,
    blend_map,
    data_uri,
    map_strength,
)
from stin_pipe.workflows.report.render import agreement_parts, data_stages, matrix_rows


@pytest.fixture(scope="module")
def hostile(made_report, tmp_path_factory: pytest.TempPathFactory):
    return made_report.make_report(tmp_path_factory.mktemp("hostile"), made_report.HOSTILE, tuned=True)


class Outline(HTMLParser):
    """Elements that are open in order, and text by tag; checks that what opens is closed."""

    VOID = frozenset(["meta", "img", "input", "option", "rect", "line", "circle", "polyline"])

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.headings: list[int] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "bdi":
            self.texts.append(data)


def outline_of(html: str) -> Outline:
    outline = Outline()
    outline.feed(html)
    assert outline.open == []
    return outline


def test_every_name_is_text_and_the_page_stays_whole(hostile, made_report) -> None:
    outline = outline_of(hostile.html)
    tags = [tag for tag, _ in outline.seen]
    assert (tags.count("script"), tags.count("style")) == (1, 1)  # ours
    assert set(made_report.HOSTILE) <= set(outline.texts)
    assert "<b>.avi" not in hostile.html and "<i>" not in hostile.html
    sources = [about["src"] for tag, about in outline.seen if tag == "img"]
    assert len(sources) > 50 and all(str(source).startswith("data:image/jpeg;") for source in sources)


def test_the_policy_allows_the_one_style_and_script_and_no_fetch(hostile) -> None:
    policy = next(
        str(about["content"]) for _, about in outline_of(hostile.html).seen if "http-equiv" in about
    )
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert (rules["default-src"], rules["img-src"]) == ("'none'", "data:")
    assert rules["media-src"] == "data:"
    for tag in ("style", "script"):
        content = re.search(f"<{tag}>(.*?)</{tag}>", hostile.html, re.DOTALL)
        assert content is not None
        digest = base64.b64encode(hashlib.sha256(content[1].encode()).digest()).decode()
        assert rules[f"{tag}-src"] == f"'sha256-{digest}'"
    outline = outline_of(hostile.html)
    assert not any("style" in about or "onclick" in about for _, about in outline.seen)
    assert not re.search(r"https?://", hostile.html)


def test_landmarks_headings_and_tables_are_in_order(hostile) -> None:
    outline = outline_of(hostile.html)
    tags = [tag for tag, _ in outline.seen]
    assert all(tags.count(tag) == 1 for tag in ("main", "header", "nav", "footer", "h1"))
    assert outline.headings[0] == 1
    steps = zip(outline.headings, outline.headings[1:], strict=False)
    assert all(after <= before + 1 for before, after in steps)  # no level is skipped
    assert tags.count("table") == tags.count("caption")
    assert all("scope" in about for tag, about in outline.seen if tag == "th")
    assert all(about.get("alt") for tag, about in outline.seen if tag == "img")
    ids = [about["id"] for _, about in outline.seen if "id" in about]
    assert len(set(ids)) == len(ids)
    links = [str(about["href"]) for tag, about in outline.seen if tag == "a"]
    assert all(link.startswith("#") and link[1:] in ids for link in links)
    # A title is text, never what Python prints of an object.
    assert ">Agreement<" in hostile.html and "&lt;class" not in hostile.html


def test_the_numbers_are_those_of_the_scores(hostile) -> None:
    right = hostile.result.fused.scores.argmax(1) == hostile.result.fused.labels
    share, listed = right.mean(), len(right) + 1
    assert f"<strong>{100 * share:.1f}<small>" in hostile.html
    assert f"counting it as an error, top-1 is {100 * right.sum() / listed:.1f}" in hostile.html
    for name, found in hostile.result.analysis.calibration.items():
        assert f">{100 * found.ece:.1f}</td><td>{found.nll:.3f}</td>" in hostile.html, name


def test_without_shards_or_models_the_page_is_still_made(made_report, tmp_path: Path) -> None:
    """Shards that are gone are told in the place of their pictures; a model that is gone only has no maps."""
    from stin_pipe.workflows.report.render import render_report

    made = made_report.make_report(tmp_path, ("a", "b", "c"), models=False)
    assert "Optical flow in colours" in made.html and "difference (spatial)" not in made.html
    (made.run.extract / "shards" / "00000.h5").unlink()
    html = render_report(made.run, made.manifest, made.result, {})
    assert "the shard is missing" in html and "Optical flow in colours" not in html


def test_a_third_stream_and_very_short_videos_are_drawn(made_report, tmp_path: Path) -> None:
    """Two frames have one field, hence one column; a stream from a file has no pictures, but all numbers."""
    from stin_pipe.stin.results.split_result import judge_split
    from stin_pipe.stin.scoring.fusion import fuse
    from stin_pipe.workflows.report.render import render_report

    made = made_report.make_report(tmp_path, ("a", "b", "c"), num_frames=2)
    streams = [*made.result.streams.values()]
    streams.append(replace(streams[0], stream="<u>audio</u>", model_digest=""))
    fused = fuse(*streams, weights=(1.0, 1.5, 0.5))
    result = judge_split("1", streams, fused, made.manifest, protocol={}, report="")
    outline = outline_of(render_report(made.run, made.manifest, result, made.models))
    assert "<u>audio</u>" in outline.texts
    frames = [about["alt"] for tag, about in outline.seen if tag == "img"]
    shown = [alt for alt in frames if str(alt).startswith("Optical flow")]
    assert len(shown) >= 3 and set(shown) == {"Optical flow in colours, frame 0"}
    assert not any(str(alt).endswith("frame 1") for alt in frames)
    parts = agreement_parts(result.analysis.agreement, 9)
    assert sum(part.count for part in parts) == 9 and parts[0].what == "all streams right"


def test_a_name_that_is_not_utf8_can_be_shown(made_report, tmp_path: Path) -> None:
    from stin_pipe.workflows.report.render import render_report

    made = made_report.make_report(tmp_path, ("a", "b"), models=False)
    made.run.path.rename(tmp_path / "run\udcff")
    html = render_report(type(made.run)(path=tmp_path / "run\udcff"), made.manifest, made.result, {})
    assert "run\\udcff" in html and html.encode("utf-8")


def test_matrix_by_hand() -> None:
    """Class 3 neither occurs nor is guessed, so it has no row; class 2 is only guessed."""
    rows = matrix_rows(("a", "b", "c", "d"), np.array([0, 0, 0, 1]), np.array([0, 0, 2, 0]))
    assert [(row.name, row.count, row.hits) for row in rows] == [("a", 3, 2), ("b", 1, 0), ("c", 0, 0)]
    assert [[cell.count for cell in row.cells] for row in rows] == [[2, 0, 1], [1, 0, 0], [0, 0, 0]]
    assert [cell.style for cell in rows[0].cells] == ["r s7", "", "w s4"]
    assert rows[1].cells[0].style == "w s10"


def test_a_matrix_of_very_many_classes_keeps_those_with_mistakes() -> None:
    labels = np.arange(500)
    guesses = labels.copy()
    guesses[[7, 450]] = [8, 451]
    rows = matrix_rows(tuple(map(str, labels)), labels, guesses)
    kept = {row.name for row in rows}
    assert len(rows) == 200 == len(rows[0].cells) and {"7", "8", "450", "451"} <= kept
    assert [row.cells[place].count for place, row in enumerate(rows) if row.name in ("7", "450")] == [0, 0]
    assert sum(cell.count for row in rows for cell in row.cells) == 200


def test_stages_and_agreement_count_every_video_once(hostile) -> None:
    data = hostile.result.data
    counts = {stage.what: stage.count for stage in data_stages(data)}
    assert counts["videos listed"] == 28 and counts["extracted"] == counts["scored"] == 27
    parts = agreement_parts(hostile.result.analysis.agreement, data.test_scored)
    assert sum(part.count for part in parts) == 27
    assert [part.start for part in parts] == list(np.cumsum([0, *(part.count for part in parts)])[:-1])


def test_chosen_videos_by_hand() -> None:
    labels = np.array([0, 0, 1, 1])
    fused = np.array([[0.9, 0.1], [0.3, 0.7], [0.2, 0.8], [0.6, 0.4]])
    spatial = np.array([[0.9, 0.1], [0.2, 0.8], [0.9, 0.1], [0.6, 0.4]])
    temporal = np.array([[0.8, 0.2], [0.4, 0.6], [0.1, 0.9], [0.6, 0.4]])
    chosen = choose_rows(labels, {"spatial": spatial, "temporal": temporal, "fused": fused})
    assert chosen == [(1, "wrong"), (3, "wrong"), (2, "apart"), (0, "right")]


def test_maps_are_drawn_where_they_are_strong_and_even_attention_is_not_drawn() -> None:
    values = np.array([[0.2, 1.0, 3.0]])
    assert map_strength(values, stream="temporal", peak=1.1).tolist() == [[0.0, 0.0, 1.0]]
    assert map_strength(values, stream="temporal", peak=9.0)[0] == pytest.approx([0.0, 0.0, 0.5])
    assert map_strength(values, stream="spatial", peak=4.0)[0] == pytest.approx([0.05, 0.25, 0.75])
    frame = np.full((1, 2, 3), 200, np.uint8)
    dark, lit = blend_map(frame, np.array([[0.0, 1.0]]), (10, 100, 250))[0].astype(int)
    assert dark.tolist() == [110, 110, 110]
    assert lit[2] > 200 and lit[0] < 40


def test_pictures_show_the_stored_frames(hostile) -> None:
    first = re.search(r'<img src="data:image/jpeg;base64,([^"]+)" alt="Picture, frame 0"', hostile.html)
    assert first is not None
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(first[1]), np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None and picture.shape == (156, 208, 3)
    assert np.abs(picture[78, 20, ::-1].astype(int) - (220, 120, 40)).max() < 12  # the square of frame 0


def test_the_largest_pictures_leave_the_page_under_its_limit() -> None:
    """Noise compresses worst: 9 videos of 4 rows of 6 such pictures leave 3 MB of 15 for the text."""
    noise = np.random.default_rng(0).integers(0, 255, (TILE_PX, TILE_PX, 3)).astype(np.uint8)
    assert 9 * 4 * NUM_TILES * len(data_uri(noise)) < 12 << 20


def test_training_charts_stay_in_their_box_and_keep_the_last_value(tmp_path: Path) -> None:
    lines = [{"kind": "train", "step": step, "main_loss": 3.0 - step / 500} for step in range(1, 1001)]
    lines.append({"kind": "val", "step": 500, "top1": 0.25, "loss": 9.0})
    lines.append({"kind": "val", "step": 1000, "top1": 0.5, "loss": float("nan")})
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    training = read_training(tmp_path, stream="spatial", run_path=tmp_path)
    loss, top1 = training_charts(training)
    places = [tuple(map(float, pair.split(","))) for pair in loss.lines[0].points.split()]
    assert len(places) == 200 and places[-1][0] == WIDTH
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in places)
    assert places[0][1] < places[-1][1]  # a falling loss goes down the page
    assert "to 1 at step 1000, best 1" in loss.text
    assert [label for _, label in top1.y_ticks] == [
        "0",
        "50",
        "100",
    ] and "to 50.0 % at step 1000" in top1.text
    assert training_charts(read_training(tmp_path / "none", stream="spatial", run_path=tmp_path)) == []


def test_reliability_and_weight_charts_by_hand() -> None:
    from stin_pipe.stin.results.calibration import calibrate

    logs = np.log(np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6]]))
    chart = reliability_chart("fused", calibrate(logs, np.array([0, 1, 1]), np.arange(3)))
    assert chart.diagonal
    marks = sorted(chart.lines[0].marks)
    assert [mark[:2] for mark in marks] == [(0.6 * WIDTH, 0.0), (0.9 * WIDTH, HEIGHT / 2)]
    assert marks[1][2] > marks[0][2]  # two videos, one video
    low, high = sorted(y for x, *ends in chart.lines[0].whiskers if x == 0.9 * WIDTH for y in ends)
    assert 0 < low < HEIGHT / 2 < high < HEIGHT  # one of two is right: Wilson's interval around a half
    chart = line_chart(
        "t", {"fused": [(0.0, 0.5), (0.5, 0.9), (1.0, 0.7)]}, x_label="x", y_label="y", text="", chosen_x=0.5
    )
    assert chart.lines[0].marks[0][:2] == (WIDTH / 2, 0.0)
    assert [label for _, label in chart.y_ticks] == ["50", "70", "90"]
    with pytest.raises(ValueError, match="at least 2 points"):
        line_chart("t", {"fused": [(0.0, 0.5)]}, x_label="x", y_label="y", text="")


def test_numbers_as_people_write_them() -> None:
    assert (percent(0.1234), percent(None), percent(float("nan"))) == ("12.3", "–", "–")
    assert (points(0.05), points(-0.05)) == ("+5.0", "\u22125.0")
    assert (p_value(0.04), p_value(1e-9)) == ("0.040", "< 0.001")


def test_101_classes_stay_small(made_report, tmp_path: Path) -> None:
    made = made_report.make_report(
        tmp_path, [f"class{number:03d}" for number in range(101)], per_class=2, models=False
    )
    assert made.html.count("<tr data-label=") == 101 and made.path.stat().st_size < 3 << 20
    assert sys.getsizeof(made.html) < 15 << 20
