"""What the last listing of a run said: its videos, their labels and sides, and whose frames they have.

`extract/listing.json` decides ids, labels, sides and membership; plans and marks say what is in the shards.
A line leads from a video of the lists to a planned one, whose frames are those of its file.
"""

from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from stin_pipe.pipeline.listing.listing import Dataset, ListedVideo
from stin_pipe.pipeline.listing.source_files import SourceState
from stin_pipe.stin.shards.bounded import FileKind
from stin_pipe.stin.shards.publish import publish_checked_json
from stin_pipe.stin.shards.schema import FORMAT_VERSION, SplitOrigin, load_checked

LISTING_FILE = "listing.json"
LISTING = FileKind(
    name="listing",
    max_bytes=1 << 30,
    next_step="delete it and run extract again, which compares all sources and writes it anew",
)


@dataclass(frozen=True, kw_only=True)
class ListedLine:
    """One video of the lists, or one that an earlier listing had.

    Attributes:
        video: as it was listed last.
        planned_id: the planned video that has its frames; another than its id where the video was renamed,
            moved or relabelled since, or where its file changed.
        is_listed: whether the last listing names it.
        state: of its file when the frames were last known to be those of the file; None if that must be
            looked at anew.
    """

    video: ListedVideo
    planned_id: str
    is_listed: bool = True
    state: SourceState | None = None


@dataclass(frozen=True, kw_only=True)
class ListingRecord:
    """The last listing; see `Listing` for what both have in common.

    Attributes:
        num_absent: listed videos that neither the folder nor a shard holds.
        lines: the listed videos, then those that were listed once.
    """

    dataset: Dataset
    root: str
    classes: tuple[str, ...]
    split_names: tuple[str, ...]
    split_from: SplitOrigin
    split_source: str
    num_skipped: int
    num_absent: int
    lines: tuple[ListedLine, ...]
    format_version: int = FORMAT_VERSION

    def save(self, extract_dir: Path) -> None:
        """Publish the record; it replaces an older one as a whole."""
        publish_checked_json(extract_dir / LISTING_FILE, asdict(self))

    def without_states(self, planned_ids: Collection[str]) -> "ListingRecord":
        """Return the record with some files to be looked at anew, whatever their size and time."""
        lines = (replace(line, state=None) if line.planned_id in planned_ids else line for line in self.lines)
        return replace(self, lines=tuple(lines))

    @classmethod
    def find(cls, extract_dir: Path) -> "ListingRecord | None":
        """Read the record of a run; None for a run of a version that wrote none.

        Raises:
            StinPipeError: it is damaged.
        """
        path = extract_dir / LISTING_FILE
        return load_checked(cls, path, LISTING) if path.exists() else None
