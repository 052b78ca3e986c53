"""How the numbers of an evaluation were made, in sentences: what two people must agree on to compare them."""

from collections.abc import Mapping, Sequence
from typing import Any

from stin_pipe.stin.results.tuning import Tuning
from stin_pipe.stin.scoring.scorer import TestProtocol
from stin_pipe.stin.shards.schema import Manifest
from stin_pipe.workflows.run.score_streams import EvalSettings, StreamScores

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
    said = [
        *(_looked_at(item, settings.protocol()) for item in streams if item.info is not None),
        *(_from_file(item) for item in streams if item.info is None),
        _fused(streams, settings, weights, tuning),
        "top-1 is over scored videos; “of listed” counts test videos that could not be extracted as wrong",
    ]
    if tuning is not None:
        said.append(
            f"the weights were chosen by {tuning.rule}; {tuning.num_videos} videos of the training list "
            "that neither stream was trained on decided, the test list had no part in it"
        )
    else:
        said.append("nothing was tuned on the test list by this program")
    if not_there := listed_but_not_there(manifest):
        said.append(not_there)
    if manifest.flow_backend == "imported":
        said.append("frames and flow were imported, as another program made them")
    if any(item.info is not None for item in streams):
        said.append(RECONSTRUCTION)
    return tuple(said)


def listed_but_not_there(manifest: Manifest) -> str:
    """Say which listed videos no accuracy counts, or return an empty text."""
    parts = [
        f"{count} videos of the lists {what}"
        for count, what in (
            (manifest.num_absent, "are absent from the videos folder"),
            (manifest.num_pending, "are not extracted yet"),
        )
        if count
    ]
    return f"{' and '.join(parts)}: they count nowhere, also not “of listed”" if parts else ""


def protocol_json(
    streams: Sequence[StreamScores], settings: EvalSettings, tuning: Tuning | None
) -> dict[str, Any]:
    """Return the same as JSON values."""
    protocol = settings.protocol()
    chosen = "held-out" if tuning is not None else ("default" if settings.weights is None else "given")
    return {
        "segments": protocol.num_segments,
        "crops": protocol.num_crops,
        "precision": protocol.precision,
        "weights_from": chosen,
        "aux": {item.scores.stream: _aux_share(item, settings) for item in streams if item.info},
        "models": {item.scores.stream: item.scores.model_digest for item in streams if item.info},
        "files": {item.scores.stream: dict(item.scores.protocol) for item in streams if not item.info},
    }


def _looked_at(item: StreamScores, protocol: TestProtocol) -> str:
    assert item.info is not None
    crops = {1: "the centre crop", 5: "5 crops (corners and centre)", 10: "10 crops (5, and mirrored)"}
    number = crops[protocol.num_crops]
    if protocol.num_crops == 10 and not item.info.flip:
        number = "5 crops (10 less the mirrored ones, because it was trained without mirroring)"
    what = "frames" if item.scores.stream == "spatial" else "flow stacks"
    sentence = (
        f"{item.scores.stream}: {protocol.num_segments} {what} evenly spaced, {number}, mean of the scores "
        f"before softmax, {protocol.precision}"
    )
    if item.scores.stream == "spatial" and not item.info.stream.is_plain:
        step = protocol.step_for(item.info.num_segments)
        sentence += f"; differences between frames {step} apart"
    return sentence


def _from_file(item: StreamScores) -> str:
    about: Mapping[str, Any] = item.scores.protocol
    return f"{item.scores.stream}: scores from the file {about['file']} ({about['values']})"


def _fused(
    streams: Sequence[StreamScores], settings: EvalSettings, weights: Sequence[float], tuning: Tuning | None
) -> str:
    names = " : ".join(item.scores.stream for item in streams)
    numbers = " : ".join(f"{weight:g}" for weight in weights)
    where = settings.when.replace("_", " ")
    source = "chosen on held-out training videos" if tuning else "given"
    if tuning is None and settings.weights is None:
        source = "TSN's"
    aux = [
        f"{item.scores.stream} {_aux_share(item, settings):g}"
        for item in streams
        if item.scores.aux_logits is not None
    ]
    added = f"; shares of auxiliary scores: {', '.join(aux)}" if aux else ""
    return f"fused by video id, weights {numbers} ({names}; {source}), averaged {where}{added}"


def _aux_share(item: StreamScores, settings: EvalSettings) -> float:
    if item.info is None or item.scores.aux_logits is None:
        return 0.0
    return item.info.stream.aux_at_test if settings.aux is None else settings.aux
