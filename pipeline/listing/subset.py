"""Keep a part of a listing: some classes, files that fit a pattern, a number of videos."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from unicodedata import normalize

from stin_pipe.pipeline.listing.hash_split import hash_share
from stin_pipe.pipeline.listing.listing import ListedVideo, Listing


def keep_classes(listing: Listing, wanted: Sequence[str]) -> Listing:
    """Keep the videos of some classes; labels then count from 0 in the order of the data set.

    Raises:
        ValueError: the data set has no such class.
    """
    if not wanted:
        return listing
    forms = {normalize("NFC", name): name for name in listing.classes}
    wanted = [forms.get(normalize("NFC", name), name) for name in wanted]
    for name in wanted:
        if name not in listing.classes:
            close = get_close_matches(name, listing.classes, n=3)
            known = ", ".join(listing.classes[:12]) + (", ..." if len(listing.classes) > 12 else "")
            hint = f"; did you mean {' or '.join(close)}?" if close else f"; it has: {known}"
            raise ValueError(f"--classes: no class {name!r} in this data set{hint}")
    kept = tuple(name for name in listing.classes if name in wanted)
    videos = tuple(
        replace(video, label=kept.index(video.class_name))
        for video in listing.videos
        if video.class_name in kept
    )
    absent = tuple(name for name in listing.absent if name.split("/")[0] in kept)
    num_skipped = listing.num_skipped + len(listing.videos) - len(videos)
    return replace(listing, classes=kept, videos=videos, num_skipped=num_skipped, absent=absent)


def keep_matching(listing: Listing, globs: Sequence[str]) -> Listing:
    """Keep the videos whose path or file name fits one of the globs; classes and labels stay as they are.

    Raises:
        ValueError: no video fits any of them.
    """
    if not globs:
        return listing
    kept = tuple(
        video
        for video in listing.videos
        if any(fnmatchcase(name, glob) for glob in globs for name in (video.path, Path(video.path).name))
    )
    if listing.videos and not kept:
        literal = next((glob for glob in globs if not set(glob) & set("*?[")), None)
        hint = f"; write such as {'*' + literal + '*'!r}" if literal else ""
        raise ValueError(
            f"--match {' '.join(map(repr, globs))} fits none of {len(listing.videos)} videos; a glob "
            f"matches the whole path or name, as {listing.videos[0].path!r} has it{hint}"
        )
    return replace(listing, videos=kept, num_skipped=listing.num_skipped + len(listing.videos) - len(kept))


def spread(videos: Sequence[ListedVideo], limit: int) -> tuple[ListedVideo, ...]:
    """Take `limit` videos in turn from each class and, within a class, from each side of the splits."""
    if limit < 1:
        raise ValueError(f"limit must be >= 1, got {limit}")
    turn: Counter[tuple[int, str]] = Counter()
    ranked = []
    for video in sorted(videos, key=lambda video: hash_share(video.id)):
        key = (video.label, str(sorted(video.splits.items())))
        ranked.append((turn[key], video.label, video.id, video))
        turn[key] += 1
    ranked.sort(key=lambda item: item[:3])
    return tuple(sorted((item[3] for item in ranked[:limit]), key=lambda video: video.id))
