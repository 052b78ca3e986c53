"""How the numbers of an evaluation were made: what two people must agree on before they compare them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stin_pipe.stin.results.tuning import Tuning
from stin_pipe.stin.scoring.settings import EvalSettings, StreamScores
from stin_pipe.stin.shards.run_dir import DEFAULT
from stin_pipe.stin.shards.schema import Manifest

RECONSTRUCTION = (
    "the streams are a reconstruction of STIN (Signal, Image and Video Processing 17(4), 2023) from its "
    "abstract; no number here is the paper's"
)


def how_made(
    manifest: Manifest,
    streams: Sequence[StreamScores],
    settings: EvalSettings,
    weights: Sequence[float],
    tuning: Tuning | None,
) -> tuple[str, ...]:
    """Return the sentences; each begins in lower case and ends without a full stop."""
    sentences = [
        *(_scored(item, settings) for item in streams if item.members),
        *(_from_file(item) for item in streams if not item.members),
        _fused(streams, settings, weights, tuning) if len(streams) > 1 else _alone(streams[0]),
        "top-1 is over scored videos; “of listed” counts test videos that could not be extracted as wrong",
    ]

    # "By this program": whoever compares many runs on the test list tunes on it, too, and we cannot know.
    if tuning is None:
        sentences.append("nothing was tuned on the test list by this program")
    else:
        sentences.append(
            f"the weights were chosen by {tuning.rule}; the choice used {tuning.num_videos} videos of the "
            "training list that neither stream was trained on, and never the test list"
        )

    if missing := missing_videos(manifest):
        sentences.append(missing)
    if manifest.flow_backend == "imported":
        sentences.append("frames and flow were imported, as another program made them")
    if any(item.members for item in streams):
        sentences.append(RECONSTRUCTION)
    return tuple(sentences)


@dataclass(frozen=True, kw_only=True)
class SettingDifference:
    """A setting in which results differ.

    Attributes:
        key: its name in metrics.json.
        name: in words.
        values: of each result, in words; "" where it does not say.
    """

    key: str
    name: str
    values: Mapping[str, str]

    @property
    def sentence(self) -> str:
        """Say who has which value."""
        return f"{self.name}: " + ", ".join(f"{who} {value or '–'}" for who, value in self.values.items())


_SETTINGS = {
    "segments": "segments",
    "crops": "crops",
    "precision": "precision",
    "aux": "shares of auxiliary scores",
    "fusion_weights": "fusion weights",
    "fusion": "averaged",
}


def protocol_differences(metrics: Mapping[str, Mapping[str, Any]]) -> tuple[SettingDifference, ...]:
    """Return in what the protocols of evaluations differ.

    Args:
        metrics: name of a result -> its metrics.json.
    """
    rows = []
    for key, name in _SETTINGS.items():
        found = {who: value.get(key, value["protocol"].get(key)) for who, value in metrics.items()}
        told = [value for value in found.values() if value is not None]
        if any(value != told[0] for value in told):
            values = {who: _setting_text(value) for who, value in found.items()}
            rows.append(SettingDifference(key=key, name=name, values=values))
    return tuple(rows)


def _setting_text(value: Any) -> str:
    match value:
        case None:
            return ""
        case dict():
            return ", ".join(f"{name} {_setting_text(item)}" for name, item in value.items())
        case list() | tuple():
            return " : ".join(map(_setting_text, value))
        case float():
            return f"{value:g}"
        case _:
            return str(value).replace("_", " ")


def missing_videos(manifest: Manifest) -> str:
    """Say which listed videos no accuracy counts, or return an empty text."""
    parts = [
        f"{count} listed videos {what}"
        for count, what in (
            (manifest.num_absent, "are absent from the videos folder"),
            (manifest.num_pending, "are not extracted yet"),
        )
        if count
    ]
    return f"{' and '.join(parts)}: no accuracy counts them, not even “of listed”" if parts else ""


def protocol_json(
    streams: Sequence[StreamScores], settings: EvalSettings, tuning: Tuning | None
) -> dict[str, Any]:
    """Return the protocol as the JSON values that metrics.json holds."""
    protocol = settings.protocol
    source = "default" if settings.fusion_weights is None else "given"
    if len(streams) == 1:
        source = None
    return {
        "segments": protocol.num_segments,
        "crops": protocol.num_crops,
        "precision": protocol.precision,
        "weights_from": source if tuning is None else "held-out",
        "aux": {item.name: item.aux_share for item in streams if item.members},
        "models": {item.name: item.scores.model_digest for item in streams if item.members},
        "members": {
            item.name: [member.to_json() for member in item.members] for item in streams if item.members
        },
        "files": {item.name: dict(item.scores.protocol) for item in streams if not item.members},
    }


def _scored(item: StreamScores, settings: EvalSettings) -> str:
    protocol = settings.protocol
    assert item.info is not None
    crops = {1: "the centre crop", 5: "5 crops (corners and centre)", 10: "10 crops (5, and mirrored)"}
    views = crops[protocol.num_crops]
    if protocol.num_crops == 10 and not item.info.flip:
        views = "5 crops (of the 10 without the mirrored ones, because it was trained without mirroring)"

    clips = "frames" if item.name == "spatial" else "flow stacks"
    sentence = (
        f"{item.name}: {protocol.num_segments} evenly spaced {clips}, {views}, mean of the scores before "
        f"softmax, {protocol.precision}"
    )
    if item.name == "spatial" and not item.info.stream.is_plain:
        step = protocol.step_for(item.info.num_segments)
        sentence += f"; differences between frames {step} apart"
    if len(item.members) > 1:
        names = ", ".join(member.name for member in item.members)
        what = "scores" if settings.when == "before_softmax" else "probabilities"
        sentence += f"; the mean of the {what} of {len(item.members)} trainings ({names})"
    elif (name := next(iter(item.members)).name) != DEFAULT:
        sentence += f"; training {name}"
    return sentence


def _alone(item: StreamScores) -> str:
    return f"the {item.name} stream is evaluated alone, and nothing is fused"


def _from_file(item: StreamScores) -> str:
    protocol = item.scores.protocol
    return f"{item.name}: scores from the file {protocol['file']} ({protocol['values']})"


def _fused(
    streams: Sequence[StreamScores], settings: EvalSettings, weights: Sequence[float], tuning: Tuning | None
) -> str:
    names = " : ".join(item.name for item in streams)
    numbers = " : ".join(f"{weight:g}" for weight in weights)
    where = settings.when.replace("_", " ")
    source = "TSN's" if settings.fusion_weights is None else "given"
    if tuning is not None:
        source = "chosen on held-out training videos"

    shares = [
        f"{item.name} {item.aux_share:g}"
        for item in streams
        if item.scores.aux_logits is not None or item.aux_share
    ]
    aux = f"; shares of auxiliary scores: {', '.join(shares)}" if shares else ""
    return f"fused by video id, weights {numbers} ({names}; {source}), averaged {where}{aux}"
