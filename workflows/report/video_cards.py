"""The report's last part: a few telling videos, what each stream says of them, and their pictures."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stin_pipe.workflows.report.pictures import Chosen, Strip, choose_videos, data_uri, draw_strip

if TYPE_CHECKING:
    from stin_pipe.stin.network.model_file import TrainedModel
    from stin_pipe.stin.results.analysis import Answers
    from stin_pipe.stin.results.split_result import SplitResult
    from stin_pipe.stin.shards.reader import ShardReader
    from stin_pipe.stin.shards.run_dir import RunDir
    from stin_pipe.stin.shards.schema import Manifest

KEY_PX = 192

GROUPS = {
    "wrong": ("Surest of a wrong answer", "The fused streams are wrong here, and sure of it."),
    "apart": ("The streams differ most", "The two streams give different answers, each sure of its own."),
    "right": ("Surest of the right answer", "The fused streams are right here, and sure of it."),
}


@dataclass(frozen=True, kw_only=True)
class StreamAnswer:
    """The likeliest class of one stream for one video."""

    stream: str
    name: str
    probability: float


@dataclass(frozen=True, kw_only=True)
class PictureRow:
    """One row of a strip: its caption, what a picture of it shows, in words, and of which frame."""

    tag: str
    alt: str
    frames: tuple[int, ...]
    pictures: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class VideoCard:
    """One video; `strip` is None where its pictures could not be made, and `missing` says why."""

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
    run: "RunDir", manifest: "Manifest", result: "SplitResult", models: "Mapping[str, TrainedModel]"
) -> VideoCards:
    """Choose the videos and draw them; what cannot be read is said in its place, and never stops the page."""
    from stin_pipe.pipeline.flow.colour import colour_key
    from stin_pipe.stin.results.analysis import answers_of
    from stin_pipe.stin.shards.reader import ShardReader

    if not run.extract.is_dir():
        return VideoCards(groups=(), key_picture="", missing="the run has no extracted videos")
    ids = result.fused.ids
    answers = [answers_of(scores, ids) for scores in (*result.streams.values(), result.fused)]
    sureness = {answer.name: np.exp(answer.log_probabilities) for answer in answers}
    chosen = choose_videos(result.fused.labels, sureness["fused"], sureness["spatial"], sureness["temporal"])
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
    result: "SplitResult",
    answers: "list[Answers]",
    reader: "ShardReader",
    manifest: "Manifest",
    models: "Mapping[str, TrainedModel]",
) -> VideoCard:
    from stin_pipe.stin.shards.errors import StinPipeError

    video_id = result.fused.ids[chosen.row]
    names = result.fused.class_names
    says = []
    for answer in answers:
        guess = int(answer.scores[chosen.row].argmax())
        says.append(
            StreamAnswer(
                stream=answer.name,
                name=names[guess],
                probability=float(np.exp(answer.log_probabilities[chosen.row, guess])),
            )
        )
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
        answers=tuple(says),
        strip=strip,
        rows=() if strip is None else _rows(strip),
        missing=missing,
    )


def _rows(strip: Strip) -> tuple[PictureRow, ...]:
    rows = [
        PictureRow(tag="video", alt="Picture", frames=strip.frames, pictures=strip.rgb),
        PictureRow(
            tag="optical flow", alt="Optical flow in colours", frames=strip.frames, pictures=strip.flow
        ),
    ]
    if strip.differences:
        alt = "Where the spatial stream sees a change"
        rows.append(
            PictureRow(
                tag="difference (spatial)",
                alt=alt,
                frames=strip.difference_frames,
                pictures=strip.differences,
            )
        )
    if strip.attention:
        alt = "Where the temporal stream attends to"
        rows.append(
            PictureRow(
                tag="attention (temporal)", alt=alt, frames=strip.attention_frames, pictures=strip.attention
            )
        )
    return tuple(rows)
