"""Score videos with a finished model: many segments, many crops, the mean before softmax.

The scores of a split are written video by video; a scoring that was killed goes on at the next one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np

from stin_pipe.stin.clips.read_clips import ClipShape, MemoryClip
from stin_pipe.stin.network.model_file import TrainedModel
from stin_pipe.stin.scoring.journal import ScoreJournal
from stin_pipe.stin.scoring.scorer import ClipScores, Scorer, TestProtocol, scoring_clips
from stin_pipe.stin.scoring.scores import Scores
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.reader import ShardReader
from stin_pipe.stin.shards.schema import STORED_OF, FlowCoding, Manifest, ManifestVideo, list_digest

__all__ = ["ClipScores", "TestProtocol", "score_clip", "score_split"]


def score_clip(
    model: TrainedModel,
    *,
    rgb: np.ndarray | None = None,
    flow: np.ndarray | None = None,
    coding: FlowCoding | None = None,
    protocol: TestProtocol | None = None,
    aux_share: float | None = None,
) -> ClipScores:
    """Score one video in memory, to the same scores as from a shard with these frames and fields.

    Args:
        model: a finished model.
        rgb: uint8 (T, H, W, 3), for a spatial model.
        flow: uint8 (T - 1, 2, H, W), quantised, for a temporal model, with its ``coding``.
        coding: what the quantised values mean.
        protocol: segments and crops; the whole test protocol by default.
        aux_share: share of the auxiliary scores; None is the model's own.

    Raises:
        ValueError: if what the model's stream needs is missing or has another shape.
    """
    if model.info.stream_name == "spatial":
        if rgb is None or rgb.ndim != 4 or rgb.shape[3] != 3 or len(rgb) < 1:
            shape = None if rgb is None else rgb.shape
            raise ValueError(f"a spatial model needs rgb (T, H, W, 3), got {shape}")
        num_frames, height, width = rgb.shape[:3]
    else:
        if flow is None or coding is None or flow.ndim != 4 or flow.shape[1] != 2 or len(flow) < 1:
            raise ValueError(
                "a temporal model needs flow (T - 1, 2, H, W) and its coding, "
                f"got {None if flow is None else flow.shape} and {coding}"
            )
        num_frames, height, width = len(flow) + 1, flow.shape[2], flow.shape[3]

    video = ClipShape(id="clip", label=0, num_frames=num_frames, height=height, width=width)
    protocol = protocol or TestProtocol()
    clips = scoring_clips(model, [video], MemoryClip(rgb=rgb, flow=flow, coding=coding), protocol)
    return Scorer(model, protocol, lambda _message: None, aux_share=aux_share).score_sample(clips[0])


def score_split(
    model: TrainedModel,
    *,
    manifest: Manifest,
    extract_dir: Path,
    split: str,
    subset: Literal["test", "train"] = "test",
    videos: Sequence[ManifestVideo] | None = None,
    protocol: TestProtocol | None = None,
    out_path: Path | None = None,
    loader_workers: int | None = None,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
    notify: Callable[[str], None] = lambda _message: None,
) -> Scores:
    """Score the extracted videos of one side of a split, in order of id.

    Args:
        model: a finished model of this run's classes.
        manifest: the run's videos.
        extract_dir: folder with ``shards/``.
        split: name of the split.
        subset: side of the split.
        videos: a part of that side, such as the held-out one; by default all of it.
        protocol: segments and crops.
        out_path: score file; one that already holds these videos by this model and protocol is returned. A
            killed scoring goes on at the next video, from a journal beside it.
        loader_workers: processes that read; None chooses by the device.
        on_progress: called with (videos done, videos in all).
        notify: called with what a person should read.

    Raises:
        StinPipeError: if the split or its list is empty, or the model knows other classes; if one crop of one
            video does not fit into the GPU's memory.
    """
    protocol = protocol or TestProtocol()
    if model.info.classes != manifest.classes:
        ours, theirs = model.info.classes, manifest.classes
        raise StinPipeError(
            f"the model knows {len(ours)} classes ({', '.join(ours[:3])}, ...), this run has {len(theirs)} "
            f"({', '.join(theirs[:3])}, ...); train on this run first"
        )

    stored = STORED_OF[model.info.stream_name]
    listed = manifest.subset(split, subset, stored) if videos is None else tuple(videos)
    if not listed:
        raise StinPipeError(f"split {split!r} has no extracted {subset} video; take another split")
    about = asdict(protocol) | {"split": split, "subset": subset, "videos": list_digest(listed, stored)}
    if out_path is not None and (finished := _finished(out_path, model, about, listed)) is not None:
        out_path.with_suffix(".journal").unlink(missing_ok=True)  # left if killed between save and unlink
        on_progress(len(listed), len(listed))
        return finished

    scorer, source = Scorer(model, protocol, notify), ShardReader(extract_dir, manifest)
    if out_path is None:
        rows = np.stack(list(scorer.score(listed, source, loader_workers)))
        return _scores_of(rows, model, about, listed)

    # The identity decides whether a journal may be continued: whatever changes a score belongs into it.
    journal_path = out_path.with_suffix(".journal")
    identity = about | {"classes": list(manifest.classes), "model": model.digest, "format": 1}
    with ScoreJournal(journal_path, identity=identity, row_length=scorer.row_length) as journal:
        rows = list(journal.read()[: len(listed)])
        on_progress(len(rows), len(listed))
        for row in scorer.score(listed[len(rows) :], source, loader_workers):
            journal.append(row)
            rows.append(row)
            on_progress(len(rows), len(listed))

    scores = _scores_of(np.stack(rows), model, about, listed)
    scores.save(out_path)
    journal_path.unlink(missing_ok=True)
    return scores


def _finished(
    path: Path, model: TrainedModel, about: Mapping[str, Any], videos: Sequence[ManifestVideo]
) -> Scores | None:
    """Return a score file's content if it holds these videos by this model and protocol."""
    if not path.exists():
        return None
    try:
        stored = Scores.load(path)
    except StinPipeError:
        return None  # scoring again costs time, not correctness
    is_same = (stored.class_names, stored.stream, dict(stored.protocol), stored.model_digest) == (
        model.info.classes,
        model.info.stream_name,
        dict(about),
        model.digest,
    )
    return stored if is_same and stored.ids == tuple(video.id for video in videos) else None


def _scores_of(
    rows: np.ndarray, model: TrainedModel, about: Mapping[str, Any], videos: Sequence[ManifestVideo]
) -> Scores:
    """Cut the scorer's rows into scores, main and auxiliary logits again."""
    num = len(model.info.classes)
    return Scores(
        ids=tuple(video.id for video in videos),
        labels=np.array([video.label for video in videos], np.int64),
        class_names=model.info.classes,
        scores=rows[:, :num],
        main_logits=rows[:, num : 2 * num],
        aux_logits=rows[:, 2 * num :] if rows.shape[1] == 3 * num else None,
        stream=model.info.stream_name,
        protocol=dict(about),
        model_digest=model.digest,
    )
