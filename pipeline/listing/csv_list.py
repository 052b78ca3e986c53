"""A data set listed in a CSV of path,label[,split,start_s,end_s]; a row is a file or a part of one."""

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from stin_pipe.pipeline.listing.files import PathFinder, inside
from stin_pipe.pipeline.listing.hash_split import HASH_SPLIT, hash_split
from stin_pipe.pipeline.listing.listing import ListedVideo, Listing, display_name, group_key
from stin_pipe.pipeline.listing.official_lists import open_text
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.schema import Subset

COLUMNS = "path,label[,split,start_s,end_s]"


@dataclass(frozen=True, kw_only=True)
class CsvRow:
    """One row of a CSV list: a file, or its part from `start_s` to `end_s`; `place` is its file:line."""

    place: str
    path: str
    class_name: str
    subset: Subset | None
    start_s: float | None
    end_s: float | None


def csv_listing(root: Path, list_csv: Path) -> Listing:
    """List the videos under `root` that a CSV names.

    Raises:
        StinPipeError: a malformed list, or a path that leads out of `root`.
    """
    rows = read_csv(list_csv)
    items = _find_files(root, list_csv, rows)

    # `class/name.ext` is short and enough, unless two folders of a class hold files of one name.
    short_ids = [_id(item.row, _short(item.row, item.path)) for item in items]
    counts = Counter(short_ids)
    classes = tuple(sorted({row.class_name for row in rows}))
    videos = [
        ListedVideo(
            id=short_id if counts[short_id] == 1 else _id(item.row, display_name(str(item.path))),
            path=str(item.file or item.path),
            label=classes.index(item.row.class_name),
            class_name=display_name(item.row.class_name),
            splits={"1": item.row.subset} if item.row.subset else {},
            group_key=group_key(item.row.class_name, item.path.name),
            start_s=item.row.start_s,
            end_s=item.row.end_s,
        )
        for short_id, item in zip(short_ids, items, strict=True)
    ]
    is_there = {video.id: item.file is not None for video, item in zip(videos, items, strict=True)}

    has_sides = any(row.subset for row in rows)
    if has_sides:
        source = f"split 1 from the split column of {list_csv}"
        used = [video for video in videos if video.splits or not is_there[video.id]]
    else:
        source = f"{list_csv} has no split column: {HASH_SPLIT}"
        sides: dict[str, Subset] = {}
        for label in range(len(classes)):
            sides |= hash_split(video.id for video in videos if video.label == label)
        used = [replace(video, splits={"1": sides[video.id]}) for video in videos]
    return Listing(
        dataset="csv",
        root=root,
        classes=tuple(display_name(name) for name in classes),
        split_names=("1",),
        split_from="column" if has_sides else "hash",
        split_source=source,
        videos=tuple(sorted((video for video in used if is_there[video.id]), key=lambda video: video.id)),
        num_skipped=len(videos) - len(used),
        missing=tuple(video for video in used if not is_there[video.id]),
    )


def read_csv(path: Path) -> list[CsvRow]:
    """Read a CSV list with a header: path,label[,split,start_s,end_s].

    Raises:
        StinPipeError: missing, repeated or unknown columns, or a malformed row (named by its line).
    """
    rows = []
    with open_text(path) as handle:
        # Strict: else a quote that is never closed swallows the rest of the file without a word.
        table = csv.DictReader(handle, strict=True)
        _require_columns(path, [name.strip().lower() for name in table.fieldnames or () if name.strip()])
        try:
            for cells in table:
                place = f"{path}:{table.line_num}"
                # DictReader puts the cells beyond the columns under None.
                if any(cell.strip() for cell in cells.pop(None, ())):
                    raise StinPipeError(
                        f"{place}: more cells than columns; put a value that holds a comma in quotes"
                    )
                row = {name.strip().lower(): (cell or "").strip() for name, cell in cells.items()}
                rows.append(_csv_row(row, place))
        except csv.Error as error:
            raise StinPipeError(f"{path}:{table.line_num}: not CSV: {error}") from error
    return rows


@dataclass(frozen=True, kw_only=True)
class _RowFile:
    """A row, its path relative to the videos folder, and the file there that it means, if there is one."""

    row: CsvRow
    path: PurePosixPath
    file: PurePosixPath | None


def _find_files(root: Path, list_csv: Path, rows: Sequence[CsvRow]) -> list[_RowFile]:
    """Find the file of each row."""
    find = PathFinder(root)
    files: list[_RowFile] = []
    places: dict[tuple[PurePosixPath, float, float | None], str] = {}
    for row in rows:
        path = inside(root, row.path, source=list_csv)
        file = find(path)
        if file is None and not _is_utf8(row.path):
            raise StinPipeError(
                f"{row.place}: {display_name(row.path)} is not in the folder, and not UTF-8; save "
                "the list as UTF-8 (in a spreadsheet: CSV UTF-8)"
            )
        files.append(_RowFile(row=row, path=path, file=file))

        # An absent file counts too: the list is wrong whether or not the file is there today.
        first = places.setdefault((file or path, row.start_s or 0.0, row.end_s), row.place)
        if first != row.place:
            raise StinPipeError(f"{row.place}: {row.path} was listed before, at {first}; list it once")
    return files


def _require_columns(path: Path, names: Sequence[str]) -> None:
    columns = set(names)
    if not {"path", "label"} <= columns:
        header = ", ".join(sorted(columns)) or "none"
        hint = "; separate them with commas" if ";" in header or "\t" in header else ""
        raise StinPipeError(f"{path}: the first line must name the columns {COLUMNS}; found: {header}{hint}")
    if unknown := sorted(columns - {"path", "label", "split", "start_s", "end_s"}):
        raise StinPipeError(f"{path}: unknown column {unknown[0]!r}; the columns are {COLUMNS}")
    if len(names) > len(columns):
        name = next(name for name in names if names.count(name) > 1)
        raise StinPipeError(f"{path}: there are two columns {name!r}; keep one of them")


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # Python carries bytes that are not UTF-8 as surrogates
        return False
    return True


def _short(row: CsvRow, path: PurePosixPath) -> str:
    """Name a file within its class: by its name alone if it lies in a folder of the class."""
    return display_name(path.name if path.parent.name == row.class_name else str(path))


def _id(row: CsvRow, name: str) -> str:
    return f"{display_name(row.class_name)}/{name}{_part(row)}"


def _part(row: CsvRow) -> str:
    """Return the part of an id for a part of a file: with as few digits as tell the number exactly."""
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
        # nan fails the comparison below, as any text that is no number should.
        value = float("nan")
    if not 0 <= value < float("inf"):
        raise StinPipeError(f"{place}: {name} must be seconds >= 0, got {text!r}")
    return value
