"""The last part of the report: a few example videos, what each stream predicts, and their pictures."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from stin_pipe.pipeline.flow.colour import colour_key
from stin_pipe.stin.network.model_file import TrainedModel
from stin_pipe.stin.results.analysis import Answers, answers_of
from stin_pipe.stin.results.split_result import SplitResult
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.reader import ShardReader
from stin_pipe.stin.shards.run_dir import RunDir
from stin_pipe.stin.shards.schema import Manifest
from stin_pipe.workflows.report.pictures import Chosen, Strip, choose_videos, data_uri, draw_strip

KEY_PX = 192

GROUPS = {
    "wrong": ("Confidently wrong", "The fused streams are wrong, with the highest confidence."),
    "apart": ("Strongest disagreement", "The two streams confidently predict different classes."),
    "right": ("Confidently right", "The fused streams are right, with the highest confidence."),
}


@dataclass(frozen=True, kw_only=True)
class StreamAnswer:
    """The most probable class of one stream for one video."""

    stream: str
    name: str
    probability: float


@dataclass(frozen=True, kw_only=True)
class PictureRow:
    """One row of a strip: its caption, what its pictures show, in words, and of which frames."""

    tag: str
    alt: str
    frames: tuple[int, ...]
    pictures: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class VideoCard:
    """One video; where its pictures could not be made, `strip` is None and `missing` says why."""

    id: str
    truth: str
    answers: tuple[StreamAnswer, ...]
    strip: Strip | None
    rows: tuple[PictureRow, ...]
    missing: str = ""


@dataclass(frozen=True, kw_only=True)
class VideoCards:
    """Groups of cards as (title, text, cards); without any, `missing` says why."""

    groups: tuple[tuple[str, str, tuple[VideoCard, ...]], ...]
    key_picture: str
    missing: str


def video_cards(
    run: RunDir, manifest: Manifest, result: SplitResult, models: Mapping[str, TrainedModel]
) -> VideoCards:
    """Choose the videos and draw them; what cannot be read is noted in its place and never stops the page."""
    if not run.extract.is_dir():
        return VideoCards(groups=(), key_picture="", missing="the run has no extracted videos")

    ids = result.fused.ids
    answers = [answers_of(scores, ids) for scores in (*result.streams.values(), result.fused)]
    shares = {answer.name: np.exp(answer.log_probabilities) for answer in answers}
    chosen = choose_videos(result.fused.labels, shares["fused"], shares["spatial"], shares["temporal"])

    reader = ShardReader(run.extract, manifest)
    try:
        cards = [(item.group, _card(item, result, answers, reader, manifest, models)) for item in chosen]
    finally:
        reader.close()

    return VideoCards(
        groups=tuple(
            (title, text, tuple(card for group, card in cards if group == name))
            for name, (title, text) in GROUPS.items()
            if any(group == name for group, _ in cards)
        ),
        key_picture=data_uri(colour_key(KEY_PX)),
        missing="",
    )


def _card(
    chosen: Chosen,
    result: SplitResult,
    answers: list[Answers],
    reader: ShardReader,
    manifest: Manifest,
    models: Mapping[str, TrainedModel],
) -> VideoCard:
    video_id = result.fused.ids[chosen.row]
    names = result.fused.class_names
    predictions = []
    for answer in answers:
        guess = int(answer.scores[chosen.row].argmax())
        probability = float(np.exp(answer.log_probabilities[chosen.row, guess]))
        predictions.append(StreamAnswer(stream=answer.name, name=names[guess], probability=probability))

    # The run may have changed since these scores were made: a video may be gone, a shard damaged.
    strip, missing = None, ""
    try:
        if video_id not in manifest.videos:
            raise StinPipeError("the video is no longer in the run")
        strip = draw_strip(reader, manifest.videos[video_id], models)
    except StinPipeError as error:
        missing = str(error)

    return VideoCard(
        id=video_id,
        truth=names[int(result.fused.labels[chosen.row])],
        answers=tuple(predictions),
        strip=strip,
        rows=() if strip is None else _rows(strip),
        missing=missing,
    )


def _rows(strip: Strip) -> tuple[PictureRow, ...]:
    """Return the rows of a strip; a stream without maps has none."""
    described = (
        ("video", "Picture", strip.frames, strip.rgb),
        ("optical flow", "Optical flow in colours", strip.frames, strip.flow),
        (
            "difference (spatial)",
            "Change in the spatial stream",
            strip.difference_frames,
            strip.differences,
        ),
        ("attention (temporal)", "Attention in the temporal stream", strip.attention_frames, strip.attention),
    )
    return tuple(
        PictureRow(tag=tag, alt=alt, frames=frames, pictures=pictures)
        for tag, alt, frames, pictures in described
        if pictures
    )
