"""Links from a page to the videos that it speaks of, where these can be reached when the page is made."""

import os
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

from stin_pipe.pipeline.planning.ledger import Ledger, read_ledger
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.run_dir import RunDir


def source_links(run: RunDir, page_folder: Path, ids: Iterable[str]) -> dict[str, str]:
    """Return video id -> address of its file, relative to the page; videos without a file are left out.

    A file must lie in the folder of videos that the run was extracted from: names from outside lead nowhere
    else, neither by `..` nor by a link.
    """
    try:
        ledger = read_ledger(run.extract)
    except (StinPipeError, OSError):
        return {}
    if not ledger.plans:
        return {}

    root, paths = _listed_paths(ledger)
    links = {}
    for video_id in ids:
        path = root / paths.get(video_id, "")
        real = path.resolve()
        if video_id in paths and real.is_file() and real.is_relative_to(root):
            relative = os.path.relpath(path.absolute(), page_folder.absolute())
            links[video_id] = quote(os.fsencode(Path(relative).as_posix()))
    return links


def _listed_paths(ledger: Ledger) -> tuple[Path, dict[str, str]]:
    """Return the folder of videos, and the path in it of each listed video."""
    if ledger.listing is not None:
        videos = [line.video for line in ledger.listing.lines]
        return Path(ledger.listing.root).resolve(), {video.id: video.path for video in videos}
    videos = [entry.video for entry in ledger.listed.values()]
    return Path(ledger.plans[-1].root).resolve(), {video.id: video.path for video in videos}
