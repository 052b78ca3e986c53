"""A run folder that a stranger made: no value in it leads out of it, hangs, or ends in Python's words."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from stin_pipe.pipeline.planning.ledger import read_ledger
from stin_pipe.pipeline.planning.verify import verify
from stin_pipe.stin.results.stored import read_metrics, score_file_digests
from stin_pipe.stin.shards.errors import ArgumentError, StinPipeError
from stin_pipe.stin.shards.publish import CHECKSUM, publish_checked_json
from stin_pipe.stin.shards.reader import ShardReader
from stin_pipe.stin.shards.run_dir import RunDir
from stin_pipe.stin.shards.schema import Manifest
from stin_pipe.workflows.run.stages import read_status
from stin_pipe.workflows.run.verify import verify_run

FILES = (
    "run.json",
    "extract/plan.json",
    "extract/manifest.json",
    "extract/shards/00000.json",
    "extract/lock.json",
    "train-spatial/split1/config.json",
    "train-spatial/split1/result.json",
    "train-spatial/split1/metrics.jsonl",
    "fuse-eval/split1/metrics.json",
)
OUT = ("../../victim/x", "../../../victim/x", "a/../../../../victim/x", "{tmp}/victim/x", "x\0y", "..", "")
WRONG = (None, True, -1, 1 << 70, 1e308, "x", "\ud800", [], [[]], {}, {"x": {}})

METRICS = {
    "fused": {"top1": 0.5},
    "spatial": {"top1": 0.5},
    "protocol": {"aux": {"spatial": 0.5}},
    "streams": ["spatial", "temporal"],
    "fusion_weights": [1.0, 2.0],
    "fusion": "after_softmax",
    "score_files": {"spatial": "0", "temporal": "0", "fused": "0"},
}
TRAINED = {
    "config": {"val_share": 0.1, "stream": {"name": "spatial"}, "init": "a.pth"},
    "training_list": "x",
    "split": "1",
}


@pytest.fixture(scope="module")
def whole(extracted_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of which every stage has left its files."""
    run = Path(shutil.copytree(extracted_run, tmp_path_factory.mktemp("whole") / "run"))
    training, evaluation = RunDir(path=run).training("spatial", "1"), RunDir(path=run).fusion("1")
    for folder in (training, evaluation):
        folder.mkdir(parents=True)
    (training / "config.json").write_text(json.dumps(TRAINED))
    result = {"steps": 3, "last_val_top1": None, "num_train": 4, "num_held_out": 0, "checkpoint": "x"}
    (training / "result.json").write_text(json.dumps(result))
    (training / "metrics.jsonl").write_text(json.dumps({"kind": "train", "step": 1, "loss": 0.5}) + "\n")
    (evaluation / "metrics.json").write_text(json.dumps(METRICS))
    holder = {"host": "h", "process_id": 1, "start_ticks": 1, "boot_id": "b", "job": "", "attempt": ""}
    (run / "extract" / "lock.json").write_text(json.dumps(holder))
    value = json.loads((run / "run.json").read_text())
    value["commands"].append({"command": "run", "argv": [], "config": {"splits": ["1"]}, "started": "x"})
    (run / "run.json").write_text(json.dumps(value))
    return run


def look(run: Path) -> None:
    """Read all that `status`, `compare`, `verify` and the stages read first."""
    for use in (
        lambda: read_status(run),
        lambda: read_ledger(run / "extract"),
        lambda: _read_videos(run),
        lambda: _read_scores(run),
        lambda: RunDir(path=run).training_names("spatial", "1"),
    ):
        try:
            use()
        except (StinPipeError, ArgumentError) as error:
            text = str(error)
            assert len(text) < 2000
            for words in (
                "object has no",
                "NoneType",
                "unexpected",
                "not subscriptable",
                "argument",
                "Exceeds",
            ):
                assert words not in text, text


def _read_videos(run: Path) -> None:
    manifest = Manifest.load(run / "extract" / "manifest.json")
    reader = ShardReader(run / "extract", manifest)
    for video_id in list(manifest.videos)[:1]:
        reader.read_rgb(video_id, [0])
    reader.close()


def _read_scores(run: Path) -> None:
    folder = run / "fuse-eval" / "split1"
    with suppress(FileNotFoundError):  # the run of this test has no scores
        score_file_digests(folder, read_metrics(folder).get("streams", []))


def keys(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the way to each value of a JSON tree; of a list the first stands for all."""
    yield at
    inner = (
        value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    )
    for key, part in inner:
        yield from keys(part, (*at, key))


def spoiled(value: Any, at: tuple[Any, ...], new: Any) -> Any:
    if not at:
        return new
    changed = value.copy()
    changed[at[0]] = spoiled(value[at[0]], at[1:], new)
    return changed


def save(path: Path, value: Any) -> None:
    """Write a value as its owner would: with a checksum that fits."""
    if isinstance(value, dict) and CHECKSUM in value:
        publish_checked_json(path, {key: part for key, part in value.items() if key != CHECKSUM})
    else:
        path.write_text(json.dumps(value) + "\n")


def snapshot(folder: Path) -> dict[str, Any]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    folder = tmp_path / "victim"
    folder.mkdir()
    for name in ("x", "x.h5", "x.json", "x.npz", ".x.1.tmp", ".x.progress"):
        (folder / name).write_text("{}")
    return folder


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "a" / "run"))


@pytest.mark.timeout(120, func_only=True)
@pytest.mark.parametrize("name", FILES)
def test_no_text_of_any_file_becomes_a_path_that_leaves_the_run(
    run: Path, victim: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, before = run / name, snapshot(victim)
    content = json.loads(path.read_text())
    opened: list[str] = []

    def note(file: Any, *args: Any, original: Callable[..., Any] = os.open, **kwargs: Any) -> Any:
        opened.append(os.path.realpath(os.fsdecode(file)) if isinstance(file, (str, bytes, Path)) else "")
        return original(file, *args, **kwargs)

    monkeypatch.setattr(os, "open", note)
    texts = [at for at in keys(content) if isinstance(_at(content, at), str) and at != (CHECKSUM,)]
    assert texts
    for at in texts:
        for text in OUT:
            save(path, spoiled(content, at, text.format(tmp=tmp_path)))
            look(run)
    assert snapshot(victim) == before
    assert not [place for place in opened if place.startswith(str(victim))]


def _at(value: Any, way: tuple[Any, ...]) -> Any:
    for key in way:
        value = value[key]
    return value


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", FILES)
def test_no_value_of_any_kind_ends_in_words_of_python(run: Path, name: str) -> None:
    path = run / name
    content = json.loads(path.read_text())
    for at in keys(content):
        if at == (CHECKSUM,):
            continue
        for wrong in WRONG:
            save(path, spoiled(content, at, wrong))
            look(run)


@pytest.mark.timeout(30, func_only=True)
@pytest.mark.parametrize("kind", ["pipe", "zero", "deep", "long", "folder"])
@pytest.mark.parametrize("name", [*FILES, "extract/shards/00000.h5"])
def test_no_file_of_a_run_makes_anybody_wait(run: Path, name: str, kind: str) -> None:
    path = run / name
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "zero":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    else:
        path.write_text("[" * 100_000 if kind == "deep" else '{"a": ' + "9" * 100_000 + "}")
    look(run)
    with suppress(StinPipeError):
        verify_run(run)


@pytest.mark.parametrize("text", ["../../../victim/x", "{tmp}/victim/x", "00000/../../../../victim/x"])
def test_extract_writes_and_deletes_nothing_outside(
    run: Path, victim: Path, tmp_path: Path, text: str, made_videos: Any, call: Any
) -> None:
    (run / "extract" / "lock.json").unlink()
    before = snapshot(victim)
    path = run / "extract" / "plan.json"
    content = json.loads(path.read_text())
    save(path, spoiled(content, ("shards", 0, "name"), text.format(tmp=tmp_path)))
    called = call("extract", "--run", run, "--videos", made_videos.videos, "--runner", "local")
    assert called.code == 1 and "a shard must be named by five or more digits" in called.stderr
    assert snapshot(victim) == before


def test_a_video_outside_of_the_videos_folder_is_not_read(run: Path) -> None:
    path = run / "extract" / "plan.json"
    content = json.loads(path.read_text())
    save(path, spoiled(content, ("shards", 0, "videos", 0, "path"), "../../outside/private.mp4"))
    with pytest.raises(
        StinPipeError, match="the path of a video must be a path that stays inside its folder"
    ):
        read_ledger(run / "extract")


@pytest.mark.parametrize("place", ["extract", "extract/shards"])
def test_nothing_is_written_through_a_link_that_leads_out(
    run: Path, victim: Path, place: str, made_videos: Any, call: Any
) -> None:
    (run / "extract" / "lock.json").unlink()
    shutil.move(run / place, victim / "theirs")
    (run / place).symlink_to(victim / "theirs")
    before = snapshot(victim)
    assert not verify(read_ledger(run / "extract")).problems, "what is only read may lie elsewhere"
    for arguments in (
        ("extract", "--videos", made_videos.videos, "--runner", "local"),
        ("verify", "--repair"),
    ):
        called = call(arguments[0], "--run", run, *arguments[1:])
        assert called.code == 1 and "a link leads out of" in called.stderr
    assert snapshot(victim) == before
