"""Which videos of a split train, which validate, and what the test list holds that training never sees.

The held-out part comes from the training list alone. Videos cut from one recording share a background and
often a person; where the manifest knows such groups, a group is held out as a whole.
"""

import hashlib
from collections import defaultdict
from dataclasses import dataclass

from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.schema import Manifest, ManifestVideo


@dataclass(frozen=True, kw_only=True)
class TrainingLists:
    """The parts of one split; each in the order of ids."""

    train: tuple[ManifestVideo, ...]
    held_out: tuple[ManifestVideo, ...]
    unseen_classes: tuple[str, ...]
    """Classes of the test list without a single training video: the streams can never be right there."""


def divide_training_list(manifest: Manifest, *, split: str, share: float) -> TrainingLists:
    """Hold out about ``share`` of each class's recordings, by a stable hash of (class, recording).

    The seed of the training has no part in it, so that trainings with several seeds are validated alike.
    A class with one recording keeps it for training. With a share above 0, at least one recording is held out
    wherever any class has two, so that small lists still have something to validate on.

    Raises:
        StinPipeError: if the split has no training video, or fewer than two classes.
    """
    listed = manifest.subset(split, "train")
    if len({video.label for video in listed}) < 2:
        raise StinPipeError(
            f"split {split!r} has {len(listed)} extracted training videos of "
            f"{len({video.label for video in listed})} classes; training needs at least 2: extract more"
        )
    recordings: dict[int, dict[str, list[ManifestVideo]]] = defaultdict(lambda: defaultdict(list))
    for video in listed:
        recordings[video.label][video.group_key or video.id].append(video)
    held: set[str] = set()
    for label, groups in recordings.items():
        wanted = min(round(share * len(groups)), len(groups) - 1)
        for key in sorted(groups, key=lambda key: _rank(label, key))[:wanted]:
            held |= {video.id for video in groups[key]}
    if share > 0 and not held:
        candidates = [
            (_rank(label, key), label, key)
            for label, groups in recordings.items()
            if len(groups) > 1
            for key in groups
        ]
        for _, label, key in sorted(candidates)[:1]:
            held |= {video.id for video in recordings[label][key]}
    seen = {video.label for video in listed}
    tested = {video.label for video in manifest.subset(split, "test")}
    return TrainingLists(
        train=tuple(video for video in listed if video.id not in held),
        held_out=tuple(video for video in listed if video.id in held),
        unseen_classes=tuple(manifest.classes[label] for label in sorted(tested - seen)),
    )


def list_digest(videos: tuple[ManifestVideo, ...]) -> str:
    """Return a digest of what a list of videos contains: ids, labels and content."""
    text = "\n".join(f"{video.id}\t{video.label}\t{video.digest}" for video in videos)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def tell_list_change(then: object, now: int) -> str:
    """Say how a training's list and that of the run now differ: counts of videos, where both are known."""
    if not isinstance(then, int):
        return f"{now} videos now; some were added, lost or extracted anew since"
    if then == now:
        return f"{now} videos then and now, some of them others or extracted anew"
    return f"{then} videos then, {now} now"


def _rank(label: int, key: str) -> str:
    return hashlib.sha256(f"{label}\n{key}".encode("utf-8", "surrogateescape")).hexdigest()
