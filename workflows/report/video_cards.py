"""The last part of the report: a few example videos, what each stream predicts, and their pictures."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from stin_pipe.pipeline.flow.colour import colour_key
from stin_pipe.stin.network.model_file import TrainedModel
from stin_pipe.stin.results.examples import Example, Group
from stin_pipe.stin.results.split_result import SplitResult
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.reader import ShardReader
from stin_pipe.stin.shards.run_dir import RunDir
from stin_pipe.stin.shards.schema import Manifest
from stin_pipe.workflows.report.clips import draw_clip
from stin_pipe.workflows.report.pictures import Strip, data_uri, draw_strip

KEY_PX = 192

GROUPS = {
    Group.WRONG: ("Confident mistakes", "Wrong answers, the most confident first."),
    Group.APART: ("Strongest disagreement", "Two streams that confidently predict different classes."),
    Group.RIGHT: ("Confident hits", "Right answers, the most confident first."),
}


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

    example: Example
    strip: Strip | None
    clip: str
    """A data URI of the looping clip; "" where there is none."""
    rows: tuple[PictureRow, ...]
    missing: str = ""


@dataclass(frozen=True, kw_only=True)
class VideoCards:
    """Groups of cards as (title, text, cards); without any, `missing` says why."""

    groups: tuple[tuple[str, str, tuple[VideoCard, ...]], ...]
    key_picture: str
    missing: str


def video_cards(
    run: RunDir,
    manifest: Manifest,
    result: SplitResult,
    models: Mapping[str, TrainedModel],
    on_progress: Callable[[int, int], None],
) -> VideoCards:
    """Choose the videos and draw them; what cannot be read is noted in its place and never stops the page."""
    if not run.extract.is_dir():
        return VideoCards(groups=(), key_picture="", missing="the run has no extracted videos")

    reader = ShardReader(run.extract, manifest)
    try:
        cards = []
        on_progress(0, len(result.examples))
        for item in result.examples:
            cards.append(_card(item, reader, manifest, models))
            on_progress(len(cards), len(result.examples))
    finally:
        reader.close()

    return VideoCards(
        groups=tuple(
            (title, text, tuple(card for card in cards if card.example.group == group))
            for group, (title, text) in GROUPS.items()
            if any(card.example.group == group for card in cards)
        ),
        key_picture=data_uri(colour_key(KEY_PX)),
        missing="",
    )


def _card(
    example: Example, reader: ShardReader, manifest: Manifest, models: Mapping[str, TrainedModel]
) -> VideoCard:
    # The run may have changed since these scores were made: a video may be gone, a shard damaged.
    strip, clip, missing = None, "", ""
    try:
        if example.id not in manifest.videos:
            raise StinPipeError("the video is no longer in the run")
        video = manifest.videos[example.id]
        strip = draw_strip(reader, video, models)
        clip = draw_clip(reader, video, full_px=strip.full_px)
    except StinPipeError as error:
        missing = str(error)

    return VideoCard(
        example=example,
        strip=strip,
        clip=clip,
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
