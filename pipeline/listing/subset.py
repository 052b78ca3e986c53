"""Keep part of a listing: some classes, files that match a pattern, a number of videos."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from unicodedata import normalize

from stin_pipe.pipeline.listing.hash_split import hash_share
from stin_pipe.pipeline.listing.listing import ListedVideo, Listing
from stin_pipe.stin.shards.errors import ArgumentError, and_more


def keep_classes(listing: Listing, names: Sequence[str]) -> Listing:
    """Keep the videos of some classes; labels then count from 0 in the order of the data set.

    Raises:
        ArgumentError: the data set has no such class.
    """
    if not names:
        return listing

    # A shell and a file system may write one letter in two forms of Unicode.
    forms = {normalize("NFC", name): name for name in listing.classes}
    names = [forms.get(normalize("NFC", name), name) for name in names]
    for name in names:
        if name not in listing.classes:
            close = get_close_matches(name, listing.classes, n=3)
            hint = (
                f"did you mean {' or '.join(close)}?" if close else f"it has: {and_more(listing.classes, 12)}"
            )
            raise ArgumentError(f"--classes: no class {name!r} in this data set; {hint}", "classes")

    classes = tuple(name for name in listing.classes if name in names)

    def relabelled(videos: Sequence[ListedVideo]) -> tuple[ListedVideo, ...]:
        return tuple(
            replace(video, label=classes.index(video.class_name))
            for video in videos
            if video.class_name in classes
        )

    videos, missing = relabelled(listing.videos), relabelled(listing.missing)
    num_skipped = listing.num_skipped + len(listing.videos) - len(videos)
    return replace(listing, classes=classes, videos=videos, num_skipped=num_skipped, missing=missing)


def keep_matching(listing: Listing, globs: Sequence[str]) -> Listing:
    """Keep the videos whose path or file name matches one of the globs; classes and labels stay as they are.

    Raises:
        ArgumentError: no video matches any of them.
    """
    if not globs:
        return listing

    def matching(videos: Sequence[ListedVideo]) -> tuple[ListedVideo, ...]:
        return tuple(
            video
            for video in videos
            if any(fnmatchcase(name, glob) for glob in globs for name in (video.path, Path(video.path).name))
        )

    videos = matching(listing.videos)
    if listing.videos and not videos:
        literal = next((glob for glob in globs if not set(glob) & set("*?[")), None)
        hint = f"; try {'*' + literal + '*'!r}" if literal else ""
        raise ArgumentError(
            f"--match {' '.join(map(repr, globs))} matches none of {len(listing.videos)} videos; a glob "
            f"must match a whole path or file name, such as {listing.videos[0].path!r}{hint}",
            "match",
        )
    num_skipped = listing.num_skipped + len(listing.videos) - len(videos)
    return replace(listing, videos=videos, num_skipped=num_skipped, missing=matching(listing.missing))


def spread(videos: Sequence[ListedVideo], limit: int) -> tuple[ListedVideo, ...]:
    """Take `limit` videos in turn from each class and, within a class, from each side of the splits."""
    if limit < 1:
        raise ArgumentError(f"limit must be >= 1, got {limit}", "limit")

    # The hash keeps the choice stable: a greater limit adds videos and drops none.
    rounds: Counter[tuple[int, str]] = Counter()
    ranked = []
    for video in sorted(videos, key=lambda video: hash_share(video.id)):
        key = (video.label, str(sorted(video.splits.items())))
        ranked.append((rounds[key], video.label, video.id, video))
        rounds[key] += 1
    ranked.sort(key=lambda item: item[:3])
    return tuple(sorted((item[3] for item in ranked[:limit]), key=lambda video: video.id))
