"""Videos of a run that hold the same pictures: identical files, and parts of one file that overlap."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from stin_pipe.pipeline.listing.listing import ListedVideo
from stin_pipe.pipeline.planning.ledger import Ledger


@dataclass(frozen=True, kw_only=True)
class Twins:
    """Two listed videos of the same pictures that contradict each other, or leak from training into the test.

    Attributes:
        ids: of both.
        classes: of both, if they differ.
        splits: in which one is trained on and the other tested.
    """

    ids: tuple[str, str]
    classes: tuple[str, ...]
    splits: tuple[str, ...]

    def __str__(self) -> str:
        """Say what is wrong with the two."""
        what = [f"under two labels, {' and '.join(self.classes)}"] if self.classes else []
        what += [f"on both sides of split {', '.join(self.splits)}"] if self.splits else []
        return f"{self.ids[0]} and {self.ids[1]} hold the same pictures, {' and '.join(what)}"


def find_twins(ledger: Ledger) -> list[Twins]:
    """Return the stored videos that share pictures, where their labels differ or their sides."""
    by_source: dict[str, list[ListedVideo]] = defaultdict(list)
    for entry in ledger.listed.values():
        if entry.source_sha256:
            by_source[entry.source_sha256].append(entry.video)

    found = []
    for videos in by_source.values():
        for one, other in _overlapping(videos):
            splits = tuple(
                name
                for name in sorted(set(one.splits) & set(other.splits))
                if one.splits[name] != other.splits[name]
            )
            differ = one.class_name != other.class_name
            if differ or splits:
                classes = (one.class_name, other.class_name) if differ else ()
                found.append(Twins(ids=(one.id, other.id), classes=classes, splits=splits))
    return sorted(found, key=lambda twins: twins.ids)


def _overlapping(videos: list[ListedVideo]) -> Iterator[tuple[ListedVideo, ListedVideo]]:
    """Yield the pairs of parts of one file that overlap."""
    parts = sorted(videos, key=lambda video: (video.start_s or 0.0, video.id))
    for place, one in enumerate(parts):
        for other in parts[place + 1 :]:
            if one.end_s is not None and (other.start_s or 0.0) >= one.end_s:
                break
            yield one, other
