"""Plan, ledger and resume: identity is content, and each video is in one state."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from stin_pipe.pipeline.listing import find_videos
from stin_pipe.pipeline.listing.find_videos import list_videos
from stin_pipe.pipeline.listing.hash_split import hash_share, hash_side
from stin_pipe.pipeline.listing.listing import ListedVideo, Listing
from stin_pipe.pipeline.listing.source_files import file_sha256
from stin_pipe.pipeline.planning import plan as plan_module
from stin_pipe.pipeline.planning.ledger import (
    find_ledger,
    plan_paths,
    read_ledger,
    shard_digest,
    write_absent,
    write_views,
)
from stin_pipe.pipeline.planning.plan import ExtractParams, Plan, make_plan
from stin_pipe.pipeline.planning.todo import count_deleted, decide, prepare_work
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.publish import CHECKSUM, publish_checked_json
from stin_pipe.stin.shards.schema import Mark, VideoMeta, VideoOutcome

PARAMS = ExtractParams(size=(48, 32), short_side=None, bound_px=5.0, flow_backend="cpu")


def folder_of(root: Path, count: int, *, size: int = 100, classes: str = "ab") -> Path:
    for name in classes:
        for index in range(count):
            path = root / name / f"{index:03d}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x" * size)
    return root


def outcome(video: ListedVideo, root: Path, *, failed: bool = False) -> VideoOutcome:
    if failed:
        return VideoOutcome(id=video.id, state="failed", reason="too_short", message="1 frame")
    about = {"label": 0, "class_name": "a", "num_frames": 3, "height": 32, "width": 48, "fps": 1.0}
    sha256 = file_sha256(root / video.path)
    meta = VideoMeta(id=video.id, **about, source_sha256=sha256, notes={}, digest=f"of {sha256}")
    return VideoOutcome(id=video.id, state="done", group="000000", meta=meta)


def finish(extract_dir: Path, fail: tuple[str, ...] = ()) -> None:
    """Pretend that workers made every pending shard."""
    (extract_dir / "shards").mkdir(exist_ok=True)
    ledger = read_ledger(extract_dir)
    root = Path(ledger.plans[-1].root)
    for shard in ledger.pending:
        outcomes = tuple(outcome(video, root, failed=video.id in fail) for video in shard.videos)
        (extract_dir / "shards" / f"{shard.name}.h5").write_bytes(b"12345")
        Mark(
            shard=shard.name,
            fingerprint=ledger.plans[0].fingerprint,
            outcomes=outcomes,
            digest=shard_digest(list(outcomes)),
            num_bytes=5,
        ).save(extract_dir / "shards" / f"{shard.name}.json")


def prepare(
    extract_dir: Path, videos: Path | Listing, params: ExtractParams = PARAMS, *, retry: bool = False
):
    extract_dir.mkdir(exist_ok=True)
    listing = videos if isinstance(videos, Listing) else list_videos(videos)
    ledger = find_ledger(extract_dir)
    return prepare_work(extract_dir, ledger, listing, params, retry_failed=retry, timeout_s=60)


def test_shards_hold_at_most_16_videos_and_about_256_mib(tmp_path: Path, monkeypatch) -> None:
    listing = list_videos(folder_of(tmp_path, 400))
    sizes = [len(shard.videos) for shard in make_plan(listing, PARAMS).shards]
    assert max(sizes) == 16 and sum(sizes) == 800
    stored = plan_module.STORED_PER_SOURCE_BYTE["both"] * 100 * 48 * 32 / (340 * 256)
    monkeypatch.setattr(plan_module, "MAX_SHARD_BYTES", 2.5 * stored)
    assert max(len(shard.videos) for shard in make_plan(listing, PARAMS).shards) == 2
    small = make_plan(replace(listing, videos=listing.videos[:40]), PARAMS)
    assert len(small.shards) == 20  # few videos: small shards, so that several workers have work


def test_parts_of_a_file_share_its_size(tmp_path: Path, monkeypatch) -> None:
    folder_of(tmp_path, 1, size=3200)
    rows = [f"a/000.mp4,a,,{start},{start + 1}" for start in range(640)]
    listing = csv_of(tmp_path, "list.csv", *rows)
    monkeypatch.setattr(plan_module, "MAX_SHARD_BYTES", plan_module.estimate_bytes(listing, PARAMS))
    sizes = [len(shard.videos) for shard in make_plan(listing, PARAMS).shards]
    assert (len(sizes), set(sizes)) == (40, {16})


def test_plan_round_trip_and_fingerprint(tmp_path: Path) -> None:
    plan = make_plan(list_videos(folder_of(tmp_path / "v", 3)), PARAMS)
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan
    assert replace(PARAMS, bound_px=6.0).fingerprint() != PARAMS.fingerprint()
    assert replace(PARAMS).fingerprint() == PARAMS.fingerprint()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bound_px": 0}, "bound must be > 0 pixels a frame, got 0"),
        ({"size": (8, 8)}, "sides must be 16 to 4096 px"),
        ({"short_side": 64}, "either a size or a short side"),
        ({"stride": 0}, "stride must be >= 1, got 0"),
        ({"fps": -1.0}, "fps must be > 0"),
    ],
)
def test_impossible_parameters_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(PARAMS, **change)


def test_a_run_of_an_earlier_algorithm_is_refused_in_its_own_words(tmp_path: Path, monkeypatch) -> None:
    videos, run = folder_of(tmp_path / "v", 3), tmp_path / "extract"
    prepare(run, videos)
    monkeypatch.setattr("stin_pipe.pipeline.planning.plan.ALGORITHM_VERSION", 99)
    with pytest.raises(StinPipeError, match=r"can be trained and evaluated as it is.*or another --run"):
        prepare(run, videos)


def test_the_same_command_resumes_and_other_parameters_are_refused(tmp_path: Path) -> None:
    videos, run = folder_of(tmp_path / "v", 3), tmp_path / "extract"
    assert len(prepare(run, videos).tasks) == 6
    finish(run)
    assert prepare(run, videos).tasks == ()
    with pytest.raises(StinPipeError, match=r"bound_px: 5\.0 in the run, 7\.0 now"):
        prepare(run, videos, replace(PARAMS, bound_px=7.0))
    folder_of(videos, 1, classes="c")
    work = prepare(run, videos)
    assert (work.decision.new_classes, work.decision.lost_classes) == (("c",), ())
    assert [video.id for video in work.decision.added] == ["c/000.mp4"]


def test_another_folder_with_classes_of_the_same_names_is_refused(tmp_path: Path) -> None:
    run = tmp_path / "extract"
    prepare(run, folder_of(tmp_path / "v", 3))
    other = tmp_path / "other"
    for name in ("a", "b"):
        (other / name).mkdir(parents=True)
        (other / name / "else.mp4").write_bytes(b"x")
    with pytest.raises(StinPipeError, match=r"none of the run's 6 videos is in .*other \(first: a/000"):
        prepare(run, other)


def test_added_removed_and_retried_videos(tmp_path: Path) -> None:
    videos, run = folder_of(tmp_path / "v", 3), tmp_path / "extract"
    prepare(run, videos)
    finish(run, fail=("a/001.mp4",))
    before = {entry.video.id: entry for entry in read_ledger(run).done}
    (videos / "b" / "new.mp4").write_bytes(b"x")
    (videos / "b" / "000.mp4").unlink()
    work = prepare(run, videos)
    assert (len(work.decision.added), len(work.decision.retried), work.decision.removed) == (
        1,
        0,
        ("b/000.mp4",),
    )
    assert [video.id for task in work.tasks for video in task.shard.videos] == ["b/new.mp4"]
    finish(run)
    work = prepare(run, videos, retry=True)
    assert [video.id for task in work.tasks for video in task.shard.videos] == ["a/001.mp4"]
    finish(run)
    ledger = read_ledger(run)
    assert [path.name for path in plan_paths(run)] == ["plan.json", "plan-0001.json", "plan-0002.json"]
    assert (len(ledger.done), ledger.failed, ledger.not_yet, ledger.unlisted) == (6, [], [], ["b/000.mp4"])
    after = {entry.video.id: entry for entry in ledger.done}
    assert all(after[name] == entry for name, entry in before.items() if name != "b/000.mp4")


def csv_of(folder: Path, name: str, *rows: str, header: str = "path,label,split,start_s,end_s") -> Listing:
    """List the videos in `folder` by a CSV of these rows."""
    table = folder / name
    table.write_text("\n".join((header, *rows)) + "\n")
    return list_videos(folder, list_csv=table)


def test_a_part_keeps_the_id_that_an_older_plan_gave_it(tmp_path: Path) -> None:
    videos, run = folder_of(tmp_path / "v", 1), tmp_path / "extract"
    run.mkdir()
    rows = ("a/000.mp4,a,train,12345.67,12350", "b/000.mp4,b,test,,")
    listing = csv_of(videos, "list.csv", *rows)
    rounded = tuple(replace(video, id=video.id.replace("45.67", "45.7")) for video in listing.videos)
    make_plan(replace(listing, videos=rounded), PARAMS).save(run / "plan.json")
    finish(run)

    def resumed(listing: Listing):
        return prepare(run, listing)

    work = resumed(listing)
    assert (work.tasks, len(work.decision.added), work.decision.removed) == ((), 0, ())
    assert sorted(work.ledger.entries) == ["a/000.mp4#12345.7-12350.0", "b/000.mp4"]
    assert sorted(work.ledger.listed) == ["a/000.mp4#12345.67-12350.0", "b/000.mp4"]
    # Another part, which has the id that the older plan gave to this one.
    work = resumed(csv_of(videos, "list.csv", rows[0].replace("45.67", "45.7"), rows[1]))
    assert [video.id for video in work.decision.added] == ["a/000.mp4#12345.7-12350.0~2"]
    assert work.decision.removed == ("a/000.mp4#12345.67-12350.0",)
    assert sorted(work.ledger.listed) == ["a/000.mp4#12345.7-12350.0", "b/000.mp4"]


def test_a_csv_without_sides_may_grow(tmp_path: Path) -> None:
    videos, run = folder_of(tmp_path / "v", 20, classes="a"), tmp_path / "extract"
    run.mkdir()
    names = [f"a/{index:03d}.mp4" for index in range(20)]
    ranked = sorted(names, key=hash_share)
    first, rest = ranked[-2:], ranked[:-2]  # of two alone, one goes to the test side against its hash
    half = csv_of(videos, "list.csv", *(f"{name},a" for name in first), header="path,label")
    prepare(run, half)
    whole = csv_of(videos, "list.csv", *(f"{name},a" for name in names), header="path,label")
    work = prepare(run, whole)
    assert len(work.decision.added) == 18
    sides = {name: entry.video.splits["1"] for name, entry in work.ledger.listed.items()}
    assert [sides[name] for name in first] == ["test", "train"]
    assert all(sides[name] == hash_side(name) for name in rest)
    finish(run)
    moved = {"train": "test", "test": "train"}
    rows = [f"{name},a,{moved[side]}" for name, side in sides.items()]
    work = prepare(run, csv_of(videos, "list.csv", *rows, header="path,label,split"))
    assert (work.tasks, len(work.decision.resplit)) == ((), 20)
    assert {name: entry.video.splits["1"] for name, entry in work.ledger.listed.items()} == {
        name: moved[side] for name, side in sides.items()
    }


def test_a_hash_split_of_version_0_1_0_is_known_by_its_sentence(tmp_path: Path, monkeypatch) -> None:
    """Its plans had no `split_from`; what the sentence is today does not matter."""
    monkeypatch.setattr(find_videos, "HASH_SPLIT", "sides follow from the names")
    names = sorted((f"a/{index:03d}.mp4" for index in range(40)), key=hash_share)
    videos, run = tmp_path / "v", tmp_path / "extract"
    (videos / "a").mkdir(parents=True)
    for name in names[-2:]:
        (videos / name).write_bytes(b"x")
    prepare(run, videos)
    plan = json.loads((run / "plan.json").read_text())
    del plan["split_from"], plan[CHECKSUM]
    sentence = "split 1 was made by a stable hash, 70 % train, 30 % test"
    publish_checked_json(
        run / "plan.json", plan | {"split_source": f"no lists given: {sentence} in each class"}
    )
    # Of two alone one goes to the test side against its hash; with this one the listing says otherwise.
    (videos / names[0]).write_bytes(b"x")
    work = prepare(run, videos)
    sides = {name: entry.video.splits["1"] for name, entry in work.ledger.listed.items()}
    assert sides == {names[-2]: "test", names[-1]: "train", names[0]: "test"}
    plan["split_source"] = "1 split from lists"
    publish_checked_json(run / "plan.json", plan)
    assert Plan.load(run / "plan.json").split_from == "lists"
    publish_checked_json(run / "plan.json", plan | {"dataset": "csv"})
    assert Plan.load(run / "plan.json").split_from == "column"


def test_an_id_that_comes_to_mean_another_file_is_another_video(tmp_path: Path) -> None:
    videos, run = folder_of(tmp_path / "v", 1), tmp_path / "extract"
    run.mkdir()
    (videos / "late" / "a").mkdir(parents=True)
    (videos / "late" / "a" / "000.mp4").write_bytes(b"another")
    now = csv_of(videos, "list.csv", "a/000.mp4,a,train,,", "b/000.mp4,b,train,,")
    prepare(run, now)
    finish(run)
    changed = csv_of(videos, "list.csv", "late/a/000.mp4,a,train,,", "b/000.mp4,b,train,,")
    decision = decide(read_ledger(run), changed, PARAMS, retry_failed=False)
    assert [(video.id, video.path) for video in decision.added] == [("a/000.mp4~2", "late/a/000.mp4")]
    assert decision.removed == ()  # the id is listed still
    both = csv_of(
        videos, "list.csv", "a/000.mp4,a,train,,", "late/a/000.mp4,a,train,,", "b/000.mp4,b,train,,"
    )
    work = prepare(run, both)
    assert sorted(work.ledger.entries) == ["a/000.mp4", "a/late/a/000.mp4", "b/000.mp4"]
    assert work.decision.removed == ()
    finish(run)
    work = prepare(run, changed)
    assert (work.tasks, work.decision.added, work.decision.removed) == ((), (), ("a/a/000.mp4",))


def test_failed_videos_that_were_deleted_are_not_tried_again(tmp_path: Path) -> None:
    videos, run = folder_of(tmp_path / "v", 3), tmp_path / "extract"
    prepare(run, videos)
    finish(run, fail=("a/001.mp4", "b/002.mp4"))
    (videos / "a" / "001.mp4").unlink()
    decision = decide(read_ledger(run), list_videos(videos), PARAMS, retry_failed=True)
    assert [video.id for video in decision.retried] == ["b/002.mp4"]
    work = prepare(run, videos, retry=True)
    assert [video.id for task in work.tasks for video in task.shard.videos] == ["b/002.mp4"]
    finish(run, fail=("b/002.mp4",))
    ledger = read_ledger(run)
    assert ([entry.video.id for entry in ledger.failed], ledger.unlisted) == (["b/002.mp4"], ["a/001.mp4"])

    # A CSV names a file still that failed and was deleted: it must not keep the exit code at 3 for ever.
    (videos / "b" / "002.mp4").unlink()
    table = csv_of(videos, "list.csv", "a/000.mp4,a,train,,", "b/002.mp4,b,train,,")
    prepare(run, table)
    ledger = read_ledger(run)
    assert [entry.video.id for entry in ledger.failed] == ["b/002.mp4"]
    assert count_deleted(ledger, table) == 1
    assert count_deleted(ledger, replace(table, dataset="ucf101")) == 0


def test_a_decision_writes_nothing_and_is_what_is_done(tmp_path: Path) -> None:
    videos, run = folder_of(tmp_path / "v", 3), tmp_path / "extract"
    run.mkdir()
    assert find_ledger(run) is None
    prepare(run, videos)
    finish(run, fail=("a/001.mp4",))
    folder_of(videos, 4)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    decision = decide(read_ledger(run), list_videos(videos), PARAMS, retry_failed=True)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    planned = {video.id for task in prepare(run, videos, retry=True).tasks for video in task.shard.videos}
    assert planned == {video.id for video in (*decision.added, *decision.retried)}
    assert planned == {"a/001.mp4", "a/003.mp4", "b/003.mp4"}


def test_a_retry_in_hand_does_not_hide_that_the_video_failed_or_lose_a_done_one(tmp_path: Path) -> None:
    videos, run = folder_of(tmp_path / "v", 2), tmp_path / "extract"
    prepare(run, videos)
    finish(run, fail=("a/000.mp4",))
    prepare(run, videos, retry=True)
    ledger = read_ledger(run)
    assert (len(ledger.done), len(ledger.failed), len(ledger.not_yet)) == (3, 0, 1)
    manifest = write_views(ledger)
    assert (len(manifest.videos), manifest.num_pending, manifest.failed) == (3, 1, ())


def test_a_mark_that_does_not_fit_its_shard_does_not_count(tmp_path: Path) -> None:
    videos, run = folder_of(tmp_path / "v", 3), tmp_path / "extract"
    prepare(run, videos)
    finish(run)
    shards = run / "shards"
    (shards / "00000.h5").unlink()
    (shards / "00001.h5").write_bytes(b"longer than before")
    (shards / "00002.json").write_text("{")
    mark = Mark.load(shards / "00003.json")
    replace(mark, fingerprint="other").save(shards / "00003.json")
    ledger = read_ledger(run)
    assert [shard.name for shard in ledger.pending] == ["00000", "00001", "00002", "00003"]
    assert "missing" in ledger.broken["00000"] and "18 bytes, but its mark says 5" in ledger.broken["00001"]
    assert "cannot be read" in ledger.broken["00002"] and "another plan" in ledger.broken["00003"]


def test_failures_and_manifest_are_derived(tmp_path: Path) -> None:
    videos, run = folder_of(tmp_path / "v", 2), tmp_path / "extract"
    prepare(run, videos)
    finish(run, fail=("b/001.mp4",))
    manifest = write_views(read_ledger(run))
    assert list(manifest.videos) == ["a/000.mp4", "a/001.mp4", "b/000.mp4"]
    assert [(video.id, video.reason) for video in manifest.failed] == [("b/001.mp4", "too_short")]
    assert '"reason": "too_short"' in (run / "failures.jsonl").read_text()
    sides = [
        len(manifest.subset("1", side)) + len(manifest.failed_of("1", side)) for side in ("train", "test")
    ]
    assert sum(sides) == 4
    with pytest.raises(StinPipeError, match="split '9' is not in this run; its splits are: 1"):
        manifest.subset("9", "test")


def test_absent_names_take_one_line_each_whatever_they_are(tmp_path: Path) -> None:
    write_absent(tmp_path, ["a\nb.avi", "\u2028\x1b[31m.avi", "é\udcff.avi"])
    assert (tmp_path / "absent.txt").read_text(encoding="utf-8").split("\n") == [
        "a\\x0ab.avi",
        "\\u2028\\x1b[31m.avi",
        "é\\xff.avi",
        "",
    ]
