"""Find the frames of each listed video among those that a run has planned already.

The file decides, not its name: a video that was renamed, moved or relabelled keeps its frames, and one whose
file holds something else than its frames is extracted anew, under a planned id of its own. Files are read
only where size or time differ from those of the last listing.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath

from stin_pipe.pipeline.listing.files import folded
from stin_pipe.pipeline.listing.listing import ListedVideo, Listing
from stin_pipe.pipeline.listing.source_files import SourceState, file_sha256, look_at
from stin_pipe.pipeline.planning.ledger import Ledger, LedgerEntry
from stin_pipe.pipeline.planning.listed import ListedLine
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.schema import Streams

Digest = Callable[[Path, Streams], str]
"""Returns the digest of a source as a shard of these streams records it.

Raises OSError where it cannot be read, StinPipeError for a folder of images that is not whole.
"""

NOT_WHOLE = "not whole"


def file_digest(path: Path, _streams: Streams) -> str:
    """Return the digest of a video file, whatever is stored of it."""
    return file_sha256(path)


_Source = tuple[str, float, float | None]


@dataclass(frozen=True, kw_only=True)
class Matches:
    """The listed videos with the planned ones that have their frames.

    Attributes:
        lines: of the listed videos, those among them that are in shards only.
        added: new videos, by their planned ids.
        changed: videos whose file holds something else than the frames in the shards, likewise.
        mended: failed videos whose file is another one now.
        kept: ids of listed videos that the folder lacks, but the shards hold.
        unreadable: ids of videos in shards whose file cannot be read now.
        num_compared: files that were read.
    """

    lines: tuple[ListedLine, ...] = ()
    added: tuple[ListedVideo, ...] = ()
    changed: tuple[ListedVideo, ...] = ()
    mended: tuple[ListedVideo, ...] = ()
    kept: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()
    num_compared: int = 0


def match(ledger: Ledger, listing: Listing, digest: Digest) -> Matches:
    """Match a listing with the planned videos of a run; nothing is written."""
    matcher = _Matcher(ledger=ledger, root=listing.root, digest=digest, is_csv=listing.dataset == "csv")
    unknown = [video for video in listing.videos if not matcher.match_known(video)]
    # Only now is it known which planned videos have lost their files, so that a new file may be one of them.
    for video in unknown:
        matcher.match_moved(video)
    for video in listing.missing:
        matcher.match_missing(video)
    return matcher.matches()


def source_of(video: ListedVideo) -> _Source:
    """Return the file of a video and the part of it."""
    return video.path, video.start_s or 0.0, video.end_s


@dataclass(kw_only=True)
class _Matcher:
    ledger: Ledger
    root: Path
    digest: Digest
    is_csv: bool
    _lines: list[ListedLine] = field(default_factory=list)
    _new: dict[str, list[ListedVideo]] = field(default_factory=lambda: defaultdict(list))
    _kept: list[str] = field(default_factory=list)
    _unreadable: list[str] = field(default_factory=list)
    _digests: dict[tuple[str, Streams], str | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        record = self.ledger.listing
        self._before: Mapping[_Source, ListedLine] = {
            source_of(line.video): line
            for line in (record.lines if record else ())
            if line.planned_id in self.ledger.entries
        }
        self._line_of = {line.planned_id: line for line in self._before.values()}
        self._planned: dict[_Source, list[LedgerEntry]] = defaultdict(list)
        self._by_stem: dict[str, list[LedgerEntry]] = defaultdict(list)
        for entry in self.ledger.entries.values():
            self._planned[source_of(entry.video)].append(entry)
            self._by_stem[folded(PurePosixPath(self._path(entry)).stem)].append(entry)
        self._names, self._taken = set(self.ledger.entries), set[str]()

    def matches(self) -> Matches:
        return Matches(
            lines=tuple(self._lines),
            added=tuple(self._new["added"]),
            changed=tuple(self._new["changed"]),
            mended=tuple(self._new["mended"]),
            kept=tuple(self._kept),
            unreadable=tuple(self._unreadable),
            num_compared=len({path for path, _ in self._digests}),
        )

    def match_known(self, video: ListedVideo) -> bool:
        """Match a video whose file was listed or planned before; False if none was."""
        source, state = source_of(video), look_at(self.root / video.path)
        before = self._before.get(source)
        if before and state is not None and before.state == state:
            self._take(video, before.planned_id, state)
            return True

        # The newest first: a file that has changed before is planned more than once.
        known = {entry.planned_id: entry for entry in reversed(self._planned.get(source, []))}
        if before:
            known = {before.planned_id: self.ledger.entries[before.planned_id], **known}
        if not known:
            return False

        done = [entry for entry in known.values() if entry.source_sha256 is not None]
        if done and self._sha256(video, done[0]) is None:
            self._unreadable.append(video.id)
            self._take(video, done[0].planned_id, before.state if before else None)
        elif same := [e for e in done if e.source_sha256 in ("", self._sha256(video, e))]:
            self._take(video, same[0].planned_id, state)
        elif left := [entry for entry in known.values() if entry.outcome is None]:
            self._take(video, left[0].planned_id, state)
        elif failed := [entry for entry in known.values() if entry.source_sha256 is None]:
            self._take(video, failed[0].planned_id, state)
            if before and state is not None:
                self._new["mended"].append(replace(video, id=failed[0].planned_id))
        else:
            self._plan("changed", video, state)
        return True

    def match_moved(self, video: ListedVideo) -> None:
        """Match a file that is new to the run: it may be one that had another name."""
        state, part = look_at(self.root / video.path), source_of(video)[1:]
        like = [
            entry
            for num_bytes in {None, state.num_bytes if state else None}
            for entry in self._free_by_size[num_bytes]
            if entry.planned_id not in self._taken and source_of(entry.video)[1:] == part
        ]
        same = [entry for entry in like if entry.source_sha256 == self._sha256(video, entry)]

        # What is not extracted yet has no digest, so its name has to do.
        entry = self.ledger.entries.get(video.id)
        if entry and not entry.source_sha256 and entry.planned_id not in self._taken:
            same += [] if (self.root / entry.video.path).exists() else [entry]
        if same:
            self._take(video, same[0].planned_id, state)
        else:
            self._plan("added", video, state)

    @cached_property
    def _free_by_size(self) -> Mapping[int | None, list[LedgerEntry]]:
        """The stored videos that no listed file has taken yet, by the size of their files where known."""
        free: dict[int | None, list[LedgerEntry]] = defaultdict(list)
        for name, entry in self.ledger.entries.items():
            if entry.source_sha256 and name not in self._taken:
                line = self._line_of.get(name)
                free[line.state.num_bytes if line and line.state else None].append(entry)
        return free

    def match_missing(self, video: ListedVideo) -> None:
        """Match a listed video that the folder lacks: people delete files once they are extracted."""
        part, folder = source_of(video)[1:], folded(PurePosixPath(video.path).parent.name)
        alike = [
            entry
            for entry in self._by_stem.get(folded(PurePosixPath(video.path).stem), ())
            if entry.planned_id not in self._taken and source_of(entry.video)[1:] == part
        ]
        # Of several versions of one file the newest; a file in another folder only if it is the only one.
        near = [item for item in alike if folded(PurePosixPath(self._path(item)).parent.name) == folder]
        alike = near[-1:] or alike
        if len(alike) != 1 or not video.splits:
            return

        (entry,) = alike
        line, path = self._line_of.get(entry.planned_id), self._path(entry)
        name = video.id if self.is_csv else f"{PurePosixPath(video.id).parent}/{PurePosixPath(path).name}"
        self._take(replace(video, id=name, path=path), entry.planned_id, line.state if line else None)
        self._kept.append(video.id)

    def _path(self, entry: LedgerEntry) -> str:
        """Return where the file of a planned video was seen last."""
        line = self._line_of.get(entry.planned_id)
        return line.video.path if line else entry.video.path

    def _sha256(self, video: ListedVideo, entry: LedgerEntry) -> str | None:
        """Return the digest of a file, as it would be stored beside these frames; None if unreadable."""
        key = video.path, entry.streams
        if key not in self._digests:
            try:
                self._digests[key] = self.digest(self.root / video.path, entry.streams)
            except StinPipeError:  # a folder of images that is not whole is another one than before
                self._digests[key] = NOT_WHOLE
            except OSError:
                self._digests[key] = None
        return self._digests[key]

    def _plan(self, kind: str, video: ListedVideo, state: SourceState | None) -> None:
        planned_id, number = video.id, 2
        while planned_id in self._names:
            planned_id, number = f"{video.id}~{number}", number + 1
        self._names.add(planned_id)
        self._new[kind].append(replace(video, id=planned_id))
        self._take(video, planned_id, state)

    def _take(self, video: ListedVideo, planned_id: str, state: SourceState | None) -> None:
        self._taken.add(planned_id)
        self._lines.append(ListedLine(video=video, planned_id=planned_id, state=state))
