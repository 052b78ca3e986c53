"""The stage from videos to shards as a function: its events, its result, and how often it reads a mark."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import click
import pytest

from stin_pipe.pipeline.extraction import (
    ExtractListed,
    ExtractProgress,
    ExtractStart,
    ExtractStopped,
    RunTasks,
    make_shards,
)
from stin_pipe.pipeline.listing.find_videos import list_videos
from stin_pipe.pipeline.planning.ledger import find_ledger, shard_digest
from stin_pipe.pipeline.planning.plan import ExtractParams, Plan
from stin_pipe.pipeline.planning.todo import ShardTask
from stin_pipe.pipeline.shard.make_shard import ShardReport
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.schema import Manifest, Mark, VideoMeta, VideoOutcome
from stin_pipe.workflows.commands.extract import extract
from stin_pipe.workflows.commands.import_ import import_
from stin_pipe.workflows.run.extraction import ExtractOptions, extract_run
from stin_pipe.workflows.run.import_frames import ImportOptions

PARAMS = ExtractParams(size=(48, 32), short_side=None, bound_px=5.0, flow_backend="cpu")


def make_mark(task: ShardTask, *, fail: str) -> ShardReport:
    """Pretend that a worker made a shard; ids with `fail` in them fail."""
    outcomes = []
    for video in task.shard.videos:
        about = {"label": video.label, "class_name": video.class_name, "height": 32, "width": 48, "fps": 1.0}
        meta = VideoMeta(id=video.id, num_frames=3, **about, source_sha256="", notes={}, digest=video.id)
        outcomes.append(
            VideoOutcome(id=video.id, state="failed", reason="too_short", message="1 frame")
            if fail and fail in video.id
            else VideoOutcome(id=video.id, state="done", group="000000", meta=meta)
        )
    path = task.extract_dir / "shards" / f"{task.shard.name}.json"
    path.with_suffix(".h5").write_bytes(b"12345")
    Mark(
        shard=task.shard.name,
        fingerprint=task.fingerprint,
        outcomes=tuple(outcomes),
        digest=shard_digest(outcomes),
        num_bytes=5,
    ).save(path)
    num_failed = sum(outcome.state == "failed" for outcome in outcomes)
    num_done = len(outcomes) - num_failed
    return ShardReport(
        shard=task.shard.name,
        num_done=num_done,
        num_failed=num_failed,
        num_frames=3 * num_done,
        num_fields=2 * num_done,
        seconds=0.0,
    )


def runner(*, fail: str = "", stop_after: int | None = None) -> RunTasks:
    def run(tasks: Sequence[ShardTask]) -> Iterator[ShardReport | None]:
        for task in tasks[:stop_after]:
            yield None
            yield make_mark(task, fail=fail)

    return run


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    for name in ("a/0.mp4", "a/1.mp4", "a/2.mp4", "b/0.mp4", "b/1.mp4"):
        path = tmp_path / "videos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path / "videos"


@pytest.fixture
def extract_dir(tmp_path: Path) -> Path:
    (tmp_path / "extract" / "shards").mkdir(parents=True)
    return tmp_path / "extract"


def made(extract_dir: Path, videos: Path, run_tasks: RunTasks, **options: Any):
    events: list[Any] = []
    result = make_shards(
        extract_dir,
        find_ledger(extract_dir),
        list_videos(videos),
        PARAMS,
        run_tasks=run_tasks,
        on_event=events.append,
        **options,
    )
    return result, events


def test_events_tell_the_work_and_its_progress(extract_dir: Path, videos: Path) -> None:
    result, events = made(extract_dir, videos, runner(fail="b/1"), max_failure_rate=0.2)
    assert isinstance(events[0], ExtractStart) and len(events[0].work.tasks) == 5
    progress = [event for event in events if isinstance(event, ExtractProgress)]
    assert [event.num_videos for event in progress] == [0, 1, 1, 2, 2, 3, 3, 4, 4, 5]
    assert {event.total_videos for event in progress} == {5} and len(progress) + 1 == len(events)
    assert (result.videos, result.done, result.failed, result.frames, result.flow_pairs) == (5, 4, 1, 12, 8)
    assert result.failures == {"too_short": 1} and not result.too_many_failed
    assert result.manifest == Manifest.load(extract_dir / "manifest.json")
    assert "manifest" not in result.to_json() and result.to_json()["shards"] == 5
    (videos / "b" / "1.mp4").unlink()
    again, events = made(extract_dir, videos, runner(), max_failure_rate=0.19)
    assert len(events) == 1 and events[0].work.decision.removed == ("b/1.mp4",)
    assert (again.failed, again.too_many_failed, again.pairs_per_s) == (0, False, None)
    # A file that failed and is another one now is tried again.
    (videos / "b" / "1.mp4").write_bytes(b"x")
    assert made(extract_dir, videos, runner(fail="b/1"), max_failure_rate=0.19)[0].too_many_failed


def test_a_runner_that_stops_early_leaves_whole_views(extract_dir: Path, videos: Path) -> None:
    with pytest.raises(ExtractStopped, match="the shards in hand are finished, 3 are left"):
        made(extract_dir, videos, runner(stop_after=2))
    manifest = Manifest.load(extract_dir / "manifest.json")
    assert (len(manifest.videos), manifest.num_pending) == (2, 3)
    result, events = made(extract_dir, videos, runner())
    assert (len(events[0].work.tasks), result.done) == (3, 5)


def test_an_extract_reads_each_plan_and_each_mark_once(extract_dir: Path, videos: Path, monkeypatch) -> None:
    reads: Counter[str] = Counter()

    def counted(load: Callable[[Path], Any]) -> Any:
        def counting(cls: type, path: Path) -> Any:
            reads[path.name] += 1
            return load(path)

        return classmethod(counting)

    monkeypatch.setattr(Plan, "load", counted(Plan.load))
    monkeypatch.setattr(Mark, "load", counted(Mark.load))
    made(extract_dir, videos, runner(fail="b/1"))
    assert reads == {f"{number:05d}.json": 1 for number in range(5)}
    (videos / "a" / "3.mp4").write_bytes(b"x")
    (extract_dir / "shards" / "00001.h5").write_bytes(b"damaged")
    reads.clear()
    result, events = made(extract_dir, videos, runner(), retry_failed=True)
    work = events[0].work
    assert (len(work.decision.added), len(work.decision.retried), len(work.tasks)) == (1, 1, 3)
    assert (result.done, result.failed, result.shards) == (6, 0, 7)
    marks = {f"{number:05d}.json": 1 for number in range(7)}
    assert reads == {"plan.json": 1, **marks, "00001.json": 2}  # what it was, and what it is now


def test_an_extract_of_a_run_is_a_call(made_videos, tmp_path: Path) -> None:
    events: list[Any] = []
    options = ExtractOptions(size=(48, 32), runner="local", workers=1, classes=["red-left", "red-up"])
    result = extract_run(tmp_path / "run", made_videos.videos, options, events.append)
    assert (result.done, result.failed) == (6, 0)
    assert isinstance(events[0], ExtractListed) and isinstance(events[-1], ExtractProgress)
    again = extract_run(tmp_path / "run", made_videos.videos, options)
    assert again.manifest == result.manifest
    for other, error in (
        ({"short_side": 32}, "exclude each other"),
        ({"bound": 3.0}, "planned with other parameters"),
    ):
        with pytest.raises((ValueError, StinPipeError), match=error):
            extract_run(tmp_path / "run", made_videos.videos, replace(options, **other))


@pytest.mark.parametrize(
    ("command", "options", "source"),
    [(extract, ExtractOptions(), "videos"), (import_, ImportOptions(), "frames")],
)
def test_a_command_without_flags_has_the_defaults_of_its_options(
    command: click.Command, options: Any, source: str, tmp_path: Path
) -> None:
    arguments = ["--run", str(tmp_path), f"--{source}", str(tmp_path)]
    with command.make_context("stin-pipe", arguments) as context:
        own = ("output", "run_path", "dry_run", source)
        values = {name: value for name, value in context.params.items() if name not in own}
    assert type(options)(**values) == options
    assert set(values) == {item.name for item in fields(options)}
