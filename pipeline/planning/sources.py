"""Compare the sources of a run with its shards: at a glance by size and time, or byte by byte."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from stin_pipe.pipeline.listing.source_files import look_at
from stin_pipe.pipeline.planning.ledger import Ledger
from stin_pipe.pipeline.planning.listed import ListingRecord
from stin_pipe.pipeline.planning.match import Digest
from stin_pipe.stin.shards.errors import StinPipeError

ADVICE = "verify --sources --repair, then the same extract again, extracts it anew"


@dataclass(frozen=True, kw_only=True)
class SourceCheck:
    """What comparing the sources found.

    Attributes:
        num_compared: sources that were read.
        num_missing: sources that are not there; people delete them once they are extracted.
        problems: a line for each source that differs from its frames or cannot be read, with the next step.
        differing: planned ids of the videos whose source differs.
    """

    num_compared: int = 0
    num_missing: int = 0
    problems: tuple[str, ...] = ()
    differing: tuple[str, ...] = ()


def looks_changed(record: ListingRecord | None) -> list[str]:
    """Return the paths of listed files whose size or time is another than when their frames were known right.

    Folders of images are left out: looking at each image takes too long where only a glance is wanted.
    """
    if record is None:
        return []
    root, paths = Path(record.root), []
    for line in record.lines:
        path = root / line.video.path
        if line.is_listed and line.state and path.is_file() and look_at(path) != line.state:
            paths.append(line.video.path)
    return sorted(set(paths))


def check_sources(
    ledger: Ledger, digest: Digest, on_progress: Callable[[int, int], None] = lambda _done, _total: None
) -> SourceCheck:
    """Read the source of every stored video, and compare its digest with that in the shard."""
    root = Path(ledger.listing.root if ledger.listing else ledger.plans[-1].root)
    stored = [entry for entry in ledger.listed.values() if entry.source_sha256]
    problems, differing, num_missing = [], [], 0
    for count, entry in enumerate(stored, 1):
        path = root / entry.video.path
        try:
            found = digest(path, entry.streams)
            problem = "" if found == entry.source_sha256 else "is another file than the one extracted"
        except FileNotFoundError:
            num_missing += 1
            problem = ""
        except StinPipeError as error:
            problem = f"is not as it was when it was extracted ({error.problem})"
        except OSError as error:
            problems.append(f"{path}: cannot be read: {error.strerror}; make it readable and verify again")
            problem = ""

        if problem:
            problems.append(f"{path}: {problem}; {ADVICE}")
            differing.append(entry.planned_id)
        on_progress(count, len(stored))

    return SourceCheck(
        num_compared=len(stored) - num_missing,
        num_missing=num_missing,
        problems=tuple(problems),
        differing=tuple(differing),
    )
