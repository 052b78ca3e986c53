"""One stream alone, and the other added later: what is stored is that of an extraction of both."""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from stin_pipe.pipeline.extraction import ExtractResult
from stin_pipe.pipeline.planning.ledger import read_ledger
from stin_pipe.pipeline.planning.todo import ShardTask
from stin_pipe.pipeline.planning.verify import verify
from stin_pipe.pipeline.shard.make_shard import ShardReport, make_shard
from stin_pipe.stin.shards.reader import ShardFile, stream_digest
from stin_pipe.stin.shards.schema import Manifest, Stream, Streams
from stin_pipe.workflows.run.extraction import ExtractOptions, extract_run

Extract = Callable[..., ExtractResult]


@pytest.fixture(scope="module")
def extract(made_videos) -> Extract:
    """Extract some of the made videos into a run, in this process: starting workers takes seconds."""

    def run_here(tasks: Sequence[ShardTask], **_options) -> Iterator[ShardReport]:
        return map(make_shard, tasks)

    def call(run: Path, streams: Streams = "both", **more) -> ExtractResult:
        options = {"splits": made_videos.lists, "size": (48, 32), "runner": "local", "workers": 2}
        options |= {"streams": streams, "classes": ("red-right", "blue-left"), **more}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("stin_pipe.workflows.run.extraction.run_local", run_here)
            return extract_run(run, options.pop("videos", made_videos.videos), ExtractOptions(**options))

    return call


@pytest.fixture(scope="module")
def rgb_run(extract: Extract, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of frames alone; tests that write copy it first."""
    run = tmp_path_factory.mktemp("rgb") / "run"
    result = extract(run, "rgb")
    assert (result.streams, result.frames, result.flow_pairs, result.pairs_per_s) == ("rgb", 42, 0, None)
    return run


def contents(run: Path, stream: Stream) -> dict[str, bytes]:
    """Return the digest of a stream of every video, wherever it is stored."""
    manifest, found = Manifest.load(run / "extract" / "manifest.json"), {}
    for video in manifest.videos.values():
        at = video.companion if video.companion and stream != video.streams else video
        shard = ShardFile(run / "extract" / "shards" / f"{at.shard}.h5")
        found[video.id] = stream_digest(shard, at.group, stream)
        shard.close()
    return found


def stored_files(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (run / "extract" / "shards").iterdir()}


def test_flow_that_is_added_later_is_that_of_both_from_the_start(
    extract: Extract, rgb_run: Path, extracted_run: Path, tmp_path: Path
) -> None:
    shutil.copytree(rgb_run, run := tmp_path / "run")
    before = stored_files(run)

    result = extract(run)
    assert (result.done, result.failed, result.streams, result.flow_pairs) == (6, 0, "both", 36)
    assert before.items() < stored_files(run).items(), "the shards of frames are not touched"
    for stream in ("rgb", "flow"):
        whole = contents(extracted_run, stream)
        assert contents(run, stream) == {name: whole[name] for name in contents(run, stream)}

    checked = verify(read_ledger(run / "extract"))
    assert (checked.problems, checked.videos, checked.pending_shards) == ((), 12, 0)
    assert extract(run).pairs_per_s is None, "nothing is left"


def test_frames_are_added_to_flow_as_flow_is_to_frames(
    extract: Extract, extracted_run: Path, tmp_path: Path
) -> None:
    result = extract(run := tmp_path / "run", "flow")
    assert (result.streams, result.frames, result.flow_pairs) == ("flow", 0, 36)
    videos = Manifest.load(run / "extract" / "manifest.json").videos
    assert {video.num_frames for video in videos.values()} == {7}
    extract(run)
    for stream in ("rgb", "flow"):
        whole = contents(extracted_run, stream)
        assert contents(run, stream) == {name: whole[name] for name in contents(run, stream)}


@pytest.mark.slow
def test_killed_while_flow_is_added_the_same_command_goes_on(
    extract: Extract, rgb_run: Path, extracted_run: Path, made_videos, tmp_path: Path
) -> None:
    shutil.copytree(rgb_run, run := tmp_path / "run")
    before, shards = stored_files(run), run / "extract" / "shards"
    command = [sys.executable, "-m", "stin_pipe", "extract", "--run", run, "--videos", made_videos.videos]
    command += ["--splits", made_videos.lists, "--size", "48x32", "--runner", "local", "--workers", "1"]
    command += ["--classes", "red-right,blue-left"]
    process = subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list(shards.glob("*.json"))) <= 6 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert before.items() < stored_files(run).items()

    extract(run)
    whole = contents(extracted_run, "flow")
    assert contents(run, "flow") == {name: whole[name] for name in contents(run, "flow")}


def test_a_source_that_was_changed_gives_no_flow_to_its_old_frames(
    extract: Extract, rgb_run: Path, made_videos, tmp_path: Path
) -> None:
    shutil.copytree(rgb_run, run := tmp_path / "run")
    shutil.copytree(made_videos.videos, videos := tmp_path / "videos")
    changed = videos / "red-right" / "v_red-right_00.avi"
    kept = changed.read_bytes()
    shutil.copyfile(videos / "red-left" / "v_red-left_00.avi", changed)

    result = extract(run, videos=videos)
    assert (result.done, result.failed, result.failures) == (5, 1, {"other_source": 1})
    manifest = Manifest.load(run / "extract" / "manifest.json")
    name = "red-right/v_red-right_00.avi"
    assert manifest.videos[name].has("rgb") and not manifest.videos[name].has("flow")
    assert name in {video.id for video in manifest.subset("1", "train", "rgb")}
    assert name not in {video.id for video in manifest.subset("1", "train", "flow")}
    assert [video.stream for video in manifest.failed_of("1", "train", "flow")] == ["flow"]
    assert manifest.failed_of("1", "train", "rgb") == ()

    changed.write_bytes(kept)
    assert extract(run, videos=videos).failed == 1, "not tried again unless asked"
    assert extract(run, videos=videos, retry_failed=True).failed == 0
    assert Manifest.load(run / "extract" / "manifest.json").videos[name].has("flow")
