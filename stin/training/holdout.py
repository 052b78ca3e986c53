"""Which videos of a training list are trained on, and which are held out for validation.

Videos cut from one recording share a background and often a person. Where the manifest names such groups, a
group is held out as a whole: otherwise the network would be validated on what it has seen.
"""

import hashlib
from collections import defaultdict
from dataclasses import dataclass

from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.schema import Manifest, ManifestVideo, Stream


@dataclass(frozen=True, kw_only=True)
class TrainingLists:
    """The parts of one split; each in the order of ids."""

    train: tuple[ManifestVideo, ...]
    held_out: tuple[ManifestVideo, ...]
    unseen_classes: tuple[str, ...]
    """Classes of the test list without any training video: all their test videos will be scored wrong."""


def divide_training_list(manifest: Manifest, *, split: str, share: float, stream: Stream) -> TrainingLists:
    """Hold out about ``share`` of each class's recordings, by a stable hash of (class, recording).

    The result does not depend on the training's seed, so that trainings with several seeds are validated on
    the same videos. A class with one recording keeps it for training. If the share is above 0 and any class
    has two recordings, at least one is held out, so that small lists have something to validate on.
    Videos without the stream are on no list.

    Raises:
        StinPipeError: if the run does not store the stream, or the split has no training video, or fewer
            than two classes.
    """
    listed = manifest.subset(split, "train", stream)
    if len({video.label for video in listed}) < 2:
        raise StinPipeError(
            f"split {split!r} has {len(listed)} extracted training videos of "
            f"{len({video.label for video in listed})} classes; training needs at least 2: extract more"
        )
    recordings: dict[int, dict[str, list[ManifestVideo]]] = defaultdict(lambda: defaultdict(list))
    for video in listed:
        recordings[video.label][video.group_key or video.id].append(video)

    held_out: set[str] = set()
    for label, groups in recordings.items():
        count = min(round(share * len(groups)), len(groups) - 1)
        for key in sorted(groups, key=lambda key: _rank(label, key))[:count]:
            held_out |= {video.id for video in groups[key]}
    if share > 0 and not held_out:
        candidates = [
            (_rank(label, key), label, key)
            for label, groups in recordings.items()
            if len(groups) > 1
            for key in groups
        ]
        for _, label, key in sorted(candidates)[:1]:
            held_out |= {video.id for video in recordings[label][key]}

    trained = {video.label for video in listed}
    tested = {video.label for video in manifest.subset(split, "test", stream)}
    return TrainingLists(
        train=tuple(video for video in listed if video.id not in held_out),
        held_out=tuple(video for video in listed if video.id in held_out),
        unseen_classes=tuple(manifest.classes[label] for label in sorted(tested - trained)),
    )


def describe_list_change(then: object, now: int) -> str:
    """Describe how a run's training list has changed, with the counts of videos that are known."""
    if not isinstance(then, int):
        return f"{now} videos now; some were added, lost or extracted again since"
    if then == now:
        return f"{now} videos then and now, but not the same ones, or extracted again"
    return f"{then} videos then, {now} now"


def _rank(label: int, key: str) -> str:
    return hashlib.sha256(f"{label}\n{key}".encode("utf-8", "surrogateescape")).hexdigest()
