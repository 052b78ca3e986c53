"""A data set named by a CSV list: path,label[,split,start_s,end_s]; a row is a file or a part of one."""

import csv
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from stin_pipe.pipeline.listing.files import PathFinder, inside
from stin_pipe.pipeline.listing.hash_split import HASH_SPLIT, hash_split
from stin_pipe.pipeline.listing.listing import ListedVideo, Listing, display_name, group_key
from stin_pipe.pipeline.listing.official_lists import open_text
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.schema import Subset


@dataclass(frozen=True, kw_only=True)
class CsvRow:
    """One row of a CSV list: a file, or the part `start_s` to `end_s` of it; `place` is its file:line."""

    place: str
    path: str
    class_name: str
    subset: Subset | None
    start_s: float | None
    end_s: float | None


def csv_listing(root: Path, list_csv: Path) -> Listing:
    """List the videos under `root` that a CSV names.

    Raises:
        StinPipeError: a malformed list, or a path that leaves `root`.
    """
    rows = read_csv(list_csv)
    find = PathFinder(root)
    classes = tuple(sorted({row.class_name for row in rows}))
    splits_given = any(row.subset for row in rows)
    found: list[tuple[CsvRow, PurePosixPath, PurePosixPath]] = []
    absent: list[str] = []
    places: dict[tuple[PurePosixPath, float, float | None], str] = {}
    for row in rows:
        path = inside(root, row.path, source=list_csv)
        file = find(path)
        if file is None and not _is_utf8(row.path):
            raise StinPipeError(
                f"{row.place}: {display_name(row.path)} is not there, and the name is not UTF-8; save the "
                "list as UTF-8 (in a spreadsheet: CSV UTF-8)"
            )
        if file is None:
            absent.append(f"{display_name(row.class_name)}/{_short(row, path)}")
        else:
            found.append((row, path, file))
        first = places.setdefault((file or path, row.start_s or 0.0, row.end_s), row.place)
        if first != row.place:
            raise StinPipeError(f"{row.place}: {row.path} was listed before, at {first}; list it once")
    short_ids = [_id(row, _short(row, path)) for row, path, _ in found]
    counts = Counter(short_ids)
    videos = [
        ListedVideo(
            id=short_id if counts[short_id] == 1 else _id(row, display_name(str(path))),
            path=str(file),
            label=classes.index(row.class_name),
            class_name=display_name(row.class_name),
            splits={"1": row.subset} if row.subset else {},
            group_key=group_key(row.class_name, path.name),
            start_s=row.start_s,
            end_s=row.end_s,
        )
        for short_id, (row, path, file) in zip(short_ids, found, strict=True)
    ]
    num_skipped = 0
    source = f"split 1 from the split column of {list_csv}"
    if splits_given:
        num_skipped = sum(not video.splits for video in videos)
        videos = [video for video in videos if video.splits]
    else:
        sides: dict[str, Subset] = {}
        for label in range(len(classes)):
            sides |= hash_split(video.id for video in videos if video.label == label)
        videos = [replace(video, splits={"1": sides[video.id]}) for video in videos]
        source = f"{list_csv} has no split column: {HASH_SPLIT}"
    return Listing(
        dataset="csv",
        root=root,
        classes=tuple(display_name(name) for name in classes),
        split_names=("1",),
        split_from="column" if splits_given else "hash",
        split_source=source,
        videos=tuple(sorted(videos, key=lambda video: video.id)),
        num_skipped=num_skipped,
        absent=tuple(sorted(absent)),
    )


def read_csv(path: Path) -> list[CsvRow]:
    """Read a CSV list with a header: path,label[,split,start_s,end_s].

    Raises:
        StinPipeError: missing, doubled or unknown columns, or a malformed row (named by line).
    """
    rows = []
    with open_text(path) as handle:
        table = csv.DictReader(handle, strict=True)
        names = [name.strip().lower() for name in table.fieldnames or () if name.strip()]
        columns = set(names)
        if not {"path", "label"} <= columns:
            found = ", ".join(sorted(columns)) or "none"
            wanted = "path,label[,split,start_s,end_s]"
            hint = "; separate them with commas" if ";" in found or "\t" in found else ""
            raise StinPipeError(
                f"{path}: the first line must name the columns {wanted}; found: {found}{hint}"
            )
        if unknown := sorted(columns - {"path", "label", "split", "start_s", "end_s"}):
            raise StinPipeError(
                f"{path}: unknown column {unknown[0]!r}; known: path,label,split,start_s,end_s"
            )
        if len(names) > len(columns):
            twice = next(name for name in names if names.count(name) > 1)
            raise StinPipeError(f"{path}: the column {twice!r} is there twice; keep one of them")
        try:
            for raw in table:
                place = f"{path}:{table.line_num}"
                if any(cell.strip() for cell in raw.pop(None, ())):  # cells beyond the columns
                    raise StinPipeError(
                        f"{place}: more cells than columns; put a value that holds a comma in quotes"
                    )
                row = {key.strip().lower(): (value or "").strip() for key, value in raw.items()}
                rows.append(_csv_row(row, place))
        except csv.Error as error:
            raise StinPipeError(f"{path}:{table.line_num}: not CSV: {error}") from error
    return rows


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # bytes that are not UTF-8 are carried as surrogates
        return False
    return True


def _short(row: CsvRow, path: PurePosixPath) -> str:
    """Name a file within its class: without the folders above it where the last is the class."""
    return display_name(path.name if path.parent.name == row.class_name else str(path))


def _id(row: CsvRow, name: str) -> str:
    return f"{display_name(row.class_name)}/{name}{_part(row)}"


def _part(row: CsvRow) -> str:
    """Write the part of a file that a row names as an id has it: with all its digits, few where few do."""
    if row.start_s is None and row.end_s is None:
        return ""
    start_s = row.start_s or 0.0
    short = f"{start_s:g}"
    return f"#{short if float(short) == start_s else start_s}-{row.end_s or ''}"


def _csv_row(row: dict[str, str], place: str) -> CsvRow:
    if not row["path"] or not row["label"]:
        raise StinPipeError(f"{place}: path and label must not be empty")
    side = row.get("split", "").lower()
    sides: dict[str, Subset | None] = {"": None, "train": "train", "test": "test"}
    if side not in sides:
        raise StinPipeError(f"{place}: split must be train, test or empty, got {side!r}")
    start_s, end_s = (_seconds(row.get(name, ""), name, place) for name in ("start_s", "end_s"))
    if end_s is not None and end_s <= (start_s or 0.0):
        raise StinPipeError(f"{place}: end_s must be > start_s, got {start_s or 0.0:g} to {end_s:g}")
    return CsvRow(
        place=place,
        path=row["path"],
        class_name=row["label"],
        subset=sides[side],
        start_s=start_s,
        end_s=end_s,
    )


def _seconds(text: str, name: str, place: str) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 <= value < float("inf"):
        raise StinPipeError(f"{place}: {name} must be seconds >= 0, got {text!r}")
    return value
