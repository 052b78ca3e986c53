"""One stream alone, and the other added later: what is stored is that of an extraction of both."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from stin_pipe.pipeline.extraction import ExtractResult, ExtractStart
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

    def call(run: Path, streams: Streams = "both", *, on_start=None, **more) -> ExtractResult:
        options = {"splits": made_videos.lists, "size": (48, 32), "runner": "local", "workers": 2}
        options |= {"streams": streams, "classes": ("red-right", "blue-left"), **more}

        def told(event: object) -> None:
            if on_start and isinstance(event, ExtractStart):
                on_start(event)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("stin_pipe.workflows.run.extraction.run_local", run_here)
            videos = options.pop("videos", made_videos.videos)
            return extract_run(run, videos, ExtractOptions(**options), told)

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
    shutil.copyfile(videos / "red-left" / "v_red-left_00.avi", changed)

    result = extract(run, videos=videos)
    assert (result.done, result.failed, result.flow_pairs) == (6, 0, 36)
    found = Manifest.load(run / "extract" / "manifest.json").videos
    assert [video.id for video in found.values() if video.streams == "both"] == [
        "red-right/v_red-right_00.avi"
    ], "frames and flow of the new file lie together, and those of the others are as before"


def test_a_file_that_is_exchanged_at_the_last_moment_gives_no_flow(
    extract: Extract, rgb_run: Path, made_videos, tmp_path: Path
) -> None:
    shutil.copytree(rgb_run, run := tmp_path / "run")
    shutil.copytree(made_videos.videos, videos := tmp_path / "videos")
    changed = videos / "red-right" / "v_red-right_00.avi"
    kept = changed.read_bytes()

    def exchange(_event: object) -> None:
        shutil.copyfile(videos / "red-left" / "v_red-left_00.avi", changed)

    result = extract(run, videos=videos, on_start=exchange)
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


CONFIG = """
run = "run"
[extract]
videos = "videos"
splits = "lists"
size = "48x32"
streams = "rgb"
runner = "local"
[train]
backbone = "resnet18-w16"
epochs = 1
segments = 2
loader_workers = 0
[train-temporal]
segments = 3
[fuse-eval]
segments = 2
crops = "1"
fusion_weights = [1.0, 1.5]
loader_workers = 0
"""


@pytest.fixture
def place(made_videos, tmp_path: Path) -> Path:
    (tmp_path / "run.toml").write_text(CONFIG)
    (tmp_path / "videos").symlink_to(made_videos.videos)
    (tmp_path / "lists").symlink_to(made_videos.lists)
    return tmp_path


def stages(called) -> list[tuple[str, str]]:
    assert called.code == 0, called.stderr
    return [(stage["stage"], stage["progress"]) for stage in called.json["stages"]]


def test_a_chain_has_the_stages_of_the_stream_there_is(place: Path, rgb_run: Path, call) -> None:
    plan = ("run", "--config", "run.toml", "--dry-run", "--json")
    begun = [("extract", "not started"), ("train-spatial", "not started"), ("fuse-eval", "not started")]
    assert stages(call(*plan, cwd=place)) == begun

    shutil.copytree(rgb_run, place / "run")
    assert stages(call(*plan, cwd=place)) == [("extract", "done"), *begun[1:]]
    (place / "run.toml").write_text(CONFIG.replace('"rgb"', '"both"'))
    both = [("extract", "unfinished"), begun[1], ("train-temporal", "not started"), begun[2]]
    assert stages(call(*plan, cwd=place)) == both, "flow is to be added, and then to be trained on"

    status = call("status", "--run", "run", "--json", cwd=place)
    assert status.json["extract"]["streams"] == "rgb"
    assert [stage["stage"] for stage in status.json["chain"]] == ["extract", "train-spatial", "fuse-eval"]


def test_a_job_trains_the_stream_there_is(place: Path, call) -> None:
    called = call("job", "slurm", "--config", "run.toml", "--json", cwd=place)
    assert called.code == 0, called.stderr
    script = (place / "run.slurm" / "train.sh").read_text()
    assert "--array=0-0" in script and "streams=(spatial )" in script


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("train-temporal",), "this run holds no flow: it was extracted with --streams rgb"),
        (("extract", "--streams", "flow", "--size", "48x32"), "give --streams both, or another --run"),
    ],
)
def test_what_a_run_of_frames_cannot_do_is_said_with_the_next_step(
    words: tuple[str, ...], error: str, place: Path, rgb_run: Path, call
) -> None:
    shutil.copytree(rgb_run, place / "run")
    if words[0] == "extract":
        words += ("--videos", "videos", "--splits", "lists", "--classes", "red-right,blue-left")
    called = call(*words, "--run", "run", cwd=place)
    assert called.code == 1 and error in called.stderr and "--streams both" in called.stderr
    assert not (place / "run" / "train-temporal").exists()


def test_a_dry_run_says_what_flow_would_cost(place: Path, rgb_run: Path, call) -> None:
    shutil.copytree(rgb_run, place / "run")
    options = ("--videos", "videos", "--splits", "lists", "--size", "48x32", "--runner", "local")
    options += ("--classes", "red-right,blue-left", "--dry-run", "--json")
    both, rgb = (call("extract", "--run", run, *options, cwd=place).json for run in ("new", "run"))
    assert (both["streams"], both["to_do"], rgb["streams"], rgb["to_do"]) == ("both", 6, "flow", 6)
    assert 0 < rgb["estimated_bytes"] < both["estimated_bytes"]


@pytest.mark.slow
def test_the_whole_way_with_frames_alone_and_then_with_flow(place: Path, made_videos, call) -> None:
    chain = ("run", "--config", "run.toml", "--json")
    first = call(*chain, cwd=place)
    assert first.code == 0, first.stderr
    assert [stage["stage"] for stage in first.json["stages"]] == ["extract", "train-spatial", "fuse-eval"]
    alone = json.loads((place / "run" / "fuse-eval" / "split1" / "metrics.json").read_text())
    assert alone["streams"] == ["spatial"] and "fused" not in alone and alone["num_videos"] == 9
    model = place / "run" / "train-spatial" / "split1" / "model.safetensors"
    trained, video = model.read_bytes(), next(made_videos.videos.rglob("*.avi"))
    options = ("--segments", "2", "--crops", "1", "--json")
    (before,) = call("predict", "--run", place / "run", *options, video).json["predictions"]
    assert "spatial" in before and not {"temporal", "motion"} & set(before)

    (place / "run.toml").write_text(CONFIG.replace('"rgb"', '"both"'))
    second = call(*chain, cwd=place)
    assert second.code == 0, second.stderr
    names = [stage["stage"] for stage in second.json["stages"]]
    assert names == ["extract", "train-spatial", "train-temporal", "fuse-eval"]
    assert model.read_bytes() == trained, "adding flow does not age the spatial training"
    fused = json.loads((place / "run" / "fuse-eval" / "split1" / "metrics.json").read_text())
    assert fused["streams"] == ["spatial", "temporal"] and fused["spatial"] == alone["spatial"]
    (after,) = call("predict", "--run", place / "run", *options, video).json["predictions"]
    assert set(after) > {"spatial", "temporal", "fused"} and after["spatial"] == before["spatial"]

    status = call("status", "--run", place / "run", "--json").json
    assert {stage["progress"] for stage in status["chain"]} == {"done"}


@pytest.mark.slow
def test_folders_of_one_stream_are_exported_and_imported(
    extract: Extract, rgb_run: Path, tmp_path: Path, call
) -> None:
    """Frames out and in, then both out and the flow in: the images are those of the shards."""
    out, run = tmp_path / "frames", tmp_path / "run"
    exported = call("export", "--run", rgb_run, "--out", out, "--json")
    assert exported.code == 0 and exported.json["streams"] == "rgb", exported.stderr
    assert {path.name.split("_")[0] for path in (out / "rawframes").rglob("*.jpg")} == {"img"}
    lists = {"classInd.txt", "rgb_train_split_1.txt", "rgb_test_split_1.txt"}
    assert {path.name for path in (out / "lists").iterdir()} == lists

    options = ("import", "--run", run, "--frames", out / "rawframes", "--workers", 1, "--json")
    refused = call(*options)
    assert refused.code == 1 and "for folders without them give --streams rgb" in refused.stderr
    assert call(*options, "--streams", "rgb").json["frames"] == 42
    ids = {name: name.removesuffix(".avi") for name in contents(rgb_run, "rgb")}
    frames = {ids[name]: digest for name, digest in contents(rgb_run, "rgb").items()}
    assert contents(run, "rgb") == frames

    # As many fields as frames, as some tools write them: the last is left out, as in an import of both.
    for folder in (out / "rawframes").glob("*/*"):
        for image in list(folder.glob("img_*.jpg")):
            for axis in "xy":
                shutil.copy(image, folder / image.name.replace("img", f"flow_{axis}"))
    added = call(*options, "--bound", 20)
    assert added.code == 0 and (added.json["flow_pairs"], added.json["failed"]) == (36, 0), added.stderr
    assert contents(run, "rgb") == frames and len(contents(run, "flow")) == 6

    flow = call(*options[:2], tmp_path / "flow", *options[3:], "--streams", "flow", "--bound", 20)
    assert flow.code == 0 and (flow.json["frames"], flow.json["flow_pairs"]) == (0, 42), flow.stderr
