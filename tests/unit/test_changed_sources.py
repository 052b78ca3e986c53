"""Files that change, move, vanish or are relabelled after they were extracted: the last listing counts."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from stin_pipe.pipeline.listing.find_videos import list_videos
from stin_pipe.pipeline.listing.source_files import TooLateError, file_sha256
from stin_pipe.pipeline.planning.ledger import find_ledger, manifest_of, read_ledger, shard_digest
from stin_pipe.pipeline.planning.plan import ExtractParams
from stin_pipe.pipeline.planning.sources import check_sources, looks_changed
from stin_pipe.pipeline.planning.todo import Work, prepare_work
from stin_pipe.pipeline.planning.twins import find_twins
from stin_pipe.stin.shards.schema import Manifest, Mark, VideoMeta, VideoOutcome

PARAMS = ExtractParams(size=(48, 32), short_side=None, bound_px=5.0, flow_backend="cpu")


class Run:
    """A folder of videos of any bytes, and a run whose workers take a file that begins with `!` as broken."""

    def __init__(self, root: Path) -> None:
        self.videos, self.extract_dir = root / "v", root / "extract"
        (self.extract_dir / "shards").mkdir(parents=True)
        self.read: list[Path] = []

    def put(self, name: str, content: str) -> None:
        path = self.videos / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        self._tick = getattr(self, "_tick", 0) + 1
        os.utime(path, (self._tick, self._tick))  # a clock of our own: two writes may share an instant

    def digest(self, path: Path, _streams: str = "both") -> str:
        self.read.append(path.relative_to(self.videos))
        return file_sha256(path)

    def prepare(
        self, rows: Sequence[str] = (), *, retry: bool = False, header: str = "path,label,split"
    ) -> Work:
        table = None
        if rows:
            table = self.videos.parent / "list.csv"
            table.write_text("\n".join((header, *rows)) + "\n")
        self.read.clear()
        return prepare_work(
            self.extract_dir,
            find_ledger(self.extract_dir),
            list_videos(self.videos, list_csv=table),
            PARAMS,
            retry_failed=retry,
            timeout_s=60,
            digest=self.digest,
        )

    def extract(
        self, rows: Sequence[str] = (), *, retry: bool = False, header: str = "path,label,split"
    ) -> list[str]:
        """Prepare, do the work as workers would, and return the planned ids of the videos that it took."""
        made = []
        for task in self.prepare(rows, retry=retry, header=header).tasks:
            outcomes = tuple(self._outcome(video.id, task.root / video.path) for video in task.shard.videos)
            data = self.extract_dir / "shards" / f"{task.shard.name}.h5"
            data.write_bytes(b"12345")
            Mark(
                shard=task.shard.name,
                fingerprint=task.fingerprint,
                outcomes=outcomes,
                digest=shard_digest(list(outcomes)),
                num_bytes=5,
            ).save(data.with_suffix(".json"))
            made += [outcome.id for outcome in outcomes]
        return sorted(made)

    def _outcome(self, name: str, path: Path) -> VideoOutcome:
        if path.read_bytes().startswith(b"!"):
            return VideoOutcome(id=name, state="failed", reason="undecodable", message="broken")
        sha256 = file_sha256(path)
        about = {"label": 0, "class_name": "a", "num_frames": 3, "height": 32, "width": 48, "fps": 1.0}
        meta = VideoMeta(id=name, **about, source_sha256=sha256, notes={}, digest=f"of {sha256}")
        return VideoOutcome(id=name, state="done", group="000000", meta=meta)

    @property
    def manifest(self) -> Manifest:
        return manifest_of(read_ledger(self.extract_dir))

    def stored(self) -> dict[str, str]:
        """Return the digest of the stored frames by id."""
        return {name: video.digest for name, video in self.manifest.videos.items()}

    def digests(self, *names: str) -> dict[str, str]:
        return {name: f"of {file_sha256(self.videos / name)}" for name in names}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = Run(tmp_path)
    for name, content in (("A/1.mp4", "one"), ("A/2.mp4", "two"), ("B/3.mp4", "three"), ("B/4.mp4", "four")):
        made.put(name, content)
    assert len(made.extract()) == 4
    return made


def test_the_same_command_reads_no_source_again(run: Run) -> None:
    assert run.extract() == [] and run.read == []


def test_a_replaced_file_is_extracted_again_and_its_old_frames_are_used_no_more(run: Run) -> None:
    run.put("A/1.mp4", "another take")
    work = run.prepare()
    assert [video.path for video in work.decision.changed] == ["A/1.mp4"]
    assert run.read == [Path("A/1.mp4")]

    # Killed here, and given again: planned once, and not trained on meanwhile.
    assert "A/1.mp4" not in run.manifest.videos and run.manifest.num_pending == 1
    assert run.prepare().decision.changed == ()
    assert run.extract() == ["A/1.mp4~2"]
    assert run.stored() == run.digests("A/1.mp4", "A/2.mp4", "B/3.mp4", "B/4.mp4")
    assert run.extract() == [] and run.read == []


def test_a_replacement_of_the_same_size_is_found_by_its_time(run: Run) -> None:
    run.put("A/1.mp4", "eno")
    assert run.extract() == ["A/1.mp4~2"]


def test_a_file_that_was_only_touched_is_not_extracted_again(run: Run) -> None:
    run.put("A/1.mp4", "one")
    assert run.extract() == [] and run.read == [Path("A/1.mp4")]
    assert run.extract() == [] and run.read == []  # looked at once


def test_a_file_that_is_restored_has_its_first_frames_again(run: Run) -> None:
    before = run.stored()
    run.put("A/1.mp4", "another take")
    assert run.extract() == ["A/1.mp4~2"]
    run.put("A/1.mp4", "one")
    assert run.extract() == [] and run.stored() == before
    run.put("A/1.mp4", "a third")
    assert run.extract() == ["A/1.mp4~3"]


def test_a_file_that_broke_counts_as_failed_until_it_is_mended(run: Run) -> None:
    run.put("A/1.mp4", "! cut off")
    assert run.extract() == ["A/1.mp4~2"]
    assert "A/1.mp4" not in run.manifest.videos
    assert [(video.id, video.reason) for video in run.manifest.failed] == [("A/1.mp4", "undecodable")]
    assert run.extract() == [] and run.read == []
    run.put("A/1.mp4", "mended")
    assert run.extract() == ["A/1.mp4~2"]
    assert run.stored() == run.digests("A/1.mp4", "A/2.mp4", "B/3.mp4", "B/4.mp4")
    assert run.manifest.failed == ()


def test_a_failed_video_is_tried_again_once_its_file_is_another(run: Run) -> None:
    run.put("B/5.mp4", "! broken")
    assert run.extract() == ["B/5.mp4"] and run.extract() == []
    run.put("B/5.mp4", "! broken in another way")
    assert run.extract() == ["B/5.mp4"] and run.extract() == []
    run.put("B/5.mp4", "whole")
    assert run.extract() == ["B/5.mp4"] and run.manifest.failed == ()


def test_a_video_that_moved_to_another_class_keeps_its_frames(run: Run) -> None:
    frames, side = run.stored()["A/2.mp4"], run.manifest.videos["A/2.mp4"].splits
    (run.videos / "A" / "2.mp4").rename(run.videos / "B" / "2.mp4")
    work = run.prepare()
    assert (work.tasks, work.decision.relabelled, work.decision.removed) == ((), ("B/2.mp4",), ())
    video = run.manifest.videos["B/2.mp4"]
    assert (video.digest, video.label, video.splits) == (frames, 1, side)
    assert sorted(run.manifest.videos) == ["A/1.mp4", "B/2.mp4", "B/3.mp4", "B/4.mp4"]

    run.put("A/2.mp4", "a new file of the old name")
    assert run.extract() == ["A/2.mp4~2"]
    assert run.stored() == run.digests("A/1.mp4", "A/2.mp4", "B/2.mp4", "B/3.mp4", "B/4.mp4")


def test_a_renamed_class_keeps_its_frames(run: Run) -> None:
    (run.videos / "A").rename(run.videos / "C")
    work = run.prepare()
    assert (work.tasks, work.decision.new_classes, work.decision.lost_classes) == ((), ("C",), ("A",))
    assert run.manifest.classes == ("B", "C")
    assert {name: video.label for name, video in run.manifest.videos.items()} == {
        "B/3.mp4": 0, "B/4.mp4": 0, "C/1.mp4": 1, "C/2.mp4": 1,
    }  # fmt: skip


def test_a_deleted_video_is_used_no_more_and_counted(run: Run) -> None:
    (run.videos / "A" / "2.mp4").unlink()
    work = run.prepare()
    assert (work.tasks, work.decision.removed) == ((), ("A/2.mp4",))
    assert (len(run.manifest.videos), run.manifest.num_unlisted) == (3, 1)
    run.put("A/2.mp4", "two")
    work = run.prepare()
    assert (work.tasks, work.decision.relisted) == ((), ("A/2.mp4",))
    assert (len(run.manifest.videos), run.manifest.num_unlisted) == (4, 0)


ROWS = ("A/1.mp4,x,train", "A/2.mp4,x,test", "B/3.mp4,y,train", "B/4.mp4,y,test")


def test_a_list_given_later_decides_labels_and_sides_and_nothing_is_extracted(run: Run) -> None:
    work = run.prepare(ROWS)
    assert work.tasks == () and run.read == []
    assert {name: (video.label, video.splits["1"]) for name, video in run.manifest.videos.items()} == {
        "x/A/1.mp4": (0, "train"), "x/A/2.mp4": (0, "test"),
        "y/B/3.mp4": (1, "train"), "y/B/4.mp4": (1, "test"),
    }  # fmt: skip
    assert run.manifest.split_from == "column"

    other = ("A/1.mp4,y,test", *ROWS[1:3])
    work = run.prepare(other)
    assert (work.tasks, work.decision.relabelled, work.decision.resplit) == (
        (),
        ("y/A/1.mp4",),
        ("y/A/1.mp4",),
    )
    assert work.decision.removed == ("y/B/4.mp4",)
    assert run.manifest.videos["y/A/1.mp4"].label == 1


def test_a_stored_video_whose_file_is_deleted_stays_as_long_as_a_list_names_it(run: Run) -> None:
    run.prepare(ROWS)
    (run.videos / "A" / "2.mp4").unlink()
    (run.videos / "B" / "3.mp4").unlink()
    rows = ("A/1.mp4,x,train", "A/2.mp4,y,test", "B/4.mp4,y,test", "B/5.mp4,y,test")
    work = run.prepare(rows)
    assert (work.tasks, work.decision.kept) == ((), ("y/A/2.mp4",))
    assert run.manifest.videos["y/A/2.mp4"].label == 1
    assert (run.manifest.num_absent, run.manifest.num_unlisted) == (
        1,
        1,
    )  # 5 was never there, 3 is not listed


def test_official_lists_keep_deleted_videos_and_resplit_without_extraction(tmp_path: Path) -> None:
    run, lists = Run(tmp_path), tmp_path / "lists"
    lists.mkdir()

    def write(train: str, test: str) -> None:
        (lists / "trainlist01.txt").write_text(train)
        (lists / "testlist01.txt").write_text(test)

    def prepare() -> Work:
        listing = list_videos(run.videos, splits_dir=lists)
        ledger = find_ledger(run.extract_dir)
        return prepare_work(run.extract_dir, ledger, listing, PARAMS, retry_failed=False, timeout_s=60)

    for name in ("A/1.mp4", "A/2.mp4", "B/3.mp4", "B/4.mp4"):
        run.put(name, name)
    run.extract()
    write("A/1.avi\nB/3.avi\n", "A/2.avi\nB/4.avi\n")  # lists of the originals, whose files were converted
    assert prepare().tasks == ()
    for name in ("A/1.mp4", "B/4.mp4"):
        (run.videos / name).unlink()
    write("A/2.avi\nB/4.avi\n", "A/1.avi\nB/3.avi\n")
    work = prepare()
    assert (work.tasks, work.decision.kept) == ((), ("A/1.avi", "B/4.avi"))
    assert {name: video.splits["1"] for name, video in run.manifest.videos.items()} == {
        "A/1.mp4": "test", "A/2.mp4": "train", "B/3.mp4": "test", "B/4.mp4": "train",
    }  # fmt: skip


def test_a_run_of_a_version_that_recorded_no_listing_compares_its_sources_once(run: Run) -> None:
    (run.extract_dir / "listing.json").unlink()
    run.put("A/1.mp4", "another take")
    assert run.extract() == ["A/1.mp4~2"] and len(run.read) == 4
    assert run.extract() == [] and run.read == []


def test_a_source_that_cannot_be_read_keeps_its_frames_and_is_named(run: Run, monkeypatch) -> None:
    run.put("A/1.mp4", "another take")
    monkeypatch.setattr(run, "digest", lambda path, _: (_ for _ in ()).throw(PermissionError(path)))
    work = run.prepare()
    assert (work.tasks, work.decision.unreadable) == ((), ("A/1.mp4",))
    monkeypatch.undo()
    assert run.extract() == ["A/1.mp4~2"]


def test_pending_shards_read_files_where_they_lie_now_and_skip_what_is_not_listed(run: Run) -> None:
    run.put("A/5.mp4", "five")
    run.put("B/6.mp4", "six")
    assert len(run.prepare().tasks) == 2  # one video each; killed here
    (run.videos / "B" / "6.mp4").unlink()
    assert run.prepare().decision.removed == ("B/6.mp4",)
    assert run.extract() == ["A/5.mp4"]


def test_a_glance_names_files_of_another_size_or_time(run: Run) -> None:
    assert looks_changed(read_ledger(run.extract_dir).listing) == []
    run.put("A/1.mp4", "another take")
    run.put("B/3.mp4", "three")
    (run.videos / "A" / "2.mp4").unlink()
    assert looks_changed(read_ledger(run.extract_dir).listing) == ["A/1.mp4", "B/3.mp4"]


def test_all_sources_are_compared_even_where_size_and_time_are_as_before(run: Run) -> None:
    state = (run.videos / "A" / "1.mp4").stat()
    (run.videos / "A" / "1.mp4").write_text("eno")
    os.utime(run.videos / "A" / "1.mp4", ns=(state.st_atime_ns, state.st_mtime_ns))
    assert run.extract() == []

    (run.videos / "B" / "4.mp4").unlink()
    ledger = read_ledger(run.extract_dir)
    checked = check_sources(ledger, run.digest)
    assert (checked.num_compared, checked.num_missing, checked.differing) == (3, 1, ("A/1.mp4",))
    assert "A/1.mp4: is another file than the one extracted" in checked.problems[0]

    assert ledger.listing is not None
    ledger.listing.without_states(checked.differing).save(run.extract_dir)
    assert run.extract() == ["A/1.mp4~2"]
    assert check_sources(read_ledger(run.extract_dir), run.digest).problems == ()


def test_the_same_pictures_under_two_labels_or_on_both_sides_are_named(run: Run) -> None:
    run.put("B/copy.mp4", "one")
    run.put("A/twin.mp4", "two")
    run.put("A/again.mp4", "two")
    rows = (*ROWS, "B/copy.mp4,y,train", "A/twin.mp4,x,train", "A/again.mp4,x,test")
    run.extract(rows)
    twins = find_twins(read_ledger(run.extract_dir))
    assert [(item.ids, item.classes, item.splits) for item in twins] == [
        (("x/A/1.mp4", "y/B/copy.mp4"), ("x", "y"), ()),
        (("x/A/2.mp4", "x/A/twin.mp4"), (), ("1",)),
        (("x/A/again.mp4", "x/A/twin.mp4"), (), ("1",)),
    ]
    assert str(twins[0]) == "x/A/1.mp4 and y/B/copy.mp4 hold the same pictures, under two labels, x and y"


def test_parts_of_one_file_are_twins_only_where_they_overlap(run: Run) -> None:
    rows = (
        "A/1.mp4,x,train,0,2", "A/1.mp4,x,test,1.5,3", "A/1.mp4,y,test,3,4", "A/1.mp4,y,train,3.5,",
        "A/2.mp4,x,train,0,1", "A/2.mp4,x,test,1,2",
    )  # fmt: skip
    run.extract(rows, header="path,label,split,start_s,end_s")
    assert [item.ids for item in find_twins(read_ledger(run.extract_dir))] == [
        ("x/A/1.mp4#0-2.0", "x/A/1.mp4#1.5-3.0"),
        ("y/A/1.mp4#3-4.0", "y/A/1.mp4#3.5-"),
    ]


def test_hashing_has_a_time_limit(tmp_path: Path) -> None:
    """A sparse file of 200 GB takes minutes to read, and no disk."""
    path = tmp_path / "sparse.mp4"
    with path.open("wb") as file:
        file.truncate(200 << 30)
    started = time.monotonic()
    with pytest.raises(TooLateError):
        file_sha256(path, deadline=started + 0.05)
    assert time.monotonic() - started < 5
