"""The trained streams of a prediction, from a run or from files, and how their videos were extracted."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from stin_pipe.pipeline.flow import TVL1Params, resolve_backend
from stin_pipe.pipeline.planning.plan import (
    IMPORTED,
    MIXED,
    NO_BOUND_PX,
    NO_FLOW,
    ExtractParams,
    usual_bound_px,
)
from stin_pipe.stin.network.config import StreamName
from stin_pipe.stin.network.model_file import MODEL_FILE, TrainedModel, load_model
from stin_pipe.stin.scoring.settings import STREAMS
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.run_dir import DEFAULT, RunDir
from stin_pipe.stin.shards.schema import STORED_OF
from stin_pipe.workflows.run.stages import manifest_or_none

StreamChoice = Literal["spatial", "temporal", "fused"]
"""Who decides: one of the streams, or both together."""

MAX_SIDE_PX, MAX_FPS = 2048, 240
MAX_ITERATIONS = 200_000
"""Of TV-L1 a pair, 27 times the default's most."""


def chosen_streams(choice: StreamChoice | None) -> tuple[StreamName, ...]:
    """Return the streams that a choice needs, or may use where nothing was chosen."""
    return STREAMS if choice in (None, "fused") else (choice,)


def members_of_run(
    run: RunDir,
    split: str,
    *,
    named: Mapping[StreamName, Sequence[str]],
    choice: StreamChoice | None = None,
) -> dict[StreamName, tuple[str, ...]]:
    """Return the names of the trainings that predict, by stream; the default one of a stream without names.

    Raises:
        StinPipeError: no stream is trained, or not all of those that are chosen or named; the run stores
            nothing that a chosen one could be trained on.
    """
    wanted: dict[StreamName, tuple[str, ...]] = {
        stream: tuple(named.get(stream) or (DEFAULT,)) for stream in chosen_streams(choice)
    }
    missing: dict[StreamName, list[str]] = {
        stream: [name for name in names if not (run.training(stream, split, name) / MODEL_FILE).exists()]
        for stream, names in wanted.items()
    }
    for stream, names in missing.items():
        if names and named.get(stream):
            known = ", ".join(run.training_names(stream, split)) or "none"
            raise StinPipeError(
                f"{run.path}: training {names[0]} of the {stream} stream of split {split} has no model; the "
                f"trainings are: {known}"
            )
    untrained = [stream for stream, names in missing.items() if names]
    if len(untrained) == len(wanted) and choice is None:
        raise StinPipeError(
            f"{run.path}: no stream of split {split} is trained yet; run `stin-pipe train-spatial --run "
            f"{run.path}` or train-temporal first"
        )
    if choice is not None and untrained:
        if (manifest := manifest_or_none(run)) is not None:
            manifest.require(STORED_OF[untrained[0]])
        raise StinPipeError(
            f"{run.path}: --streams {choice} needs the {untrained[0]} stream of split {split}, which is not "
            f"trained; run `stin-pipe train-{untrained[0]} --run {run.path} --split {split}` first"
        )
    return {stream: names for stream, names in wanted.items() if stream not in untrained}


def load_streams(
    files: Sequence[Path], *, device: torch.device, choice: StreamChoice | None = None
) -> dict[str, TrainedModel]:
    """Load one or both streams, by name, the spatial one first; models that are not chosen are left out.

    Raises:
        ValueError: two files of one stream.
        StinPipeError: a file is no model, or none is of a stream that is chosen.
    """
    models: dict[str, TrainedModel] = {}
    for file in files:
        model = load_model(file, device=device)
        stream = model.info.stream_name
        if stream in models:
            raise ValueError(f"{file} is a second {stream} model; give one of each stream")
        models[stream] = model
    missing = [stream for stream in chosen_streams(choice) if stream not in models]
    if choice is not None and missing:
        raise StinPipeError(
            f"--streams {choice} needs a {missing[0]} model, but {', '.join(map(str, files))} holds none; "
            "give its file with --model too, or other --streams"
        )
    return {stream: models[stream] for stream in chosen_streams(choice) if stream in models}


def common_params(models: Mapping[str, Sequence[TrainedModel]]) -> ExtractParams:
    """Return how frames and flow are to be made, on which the models of all streams must agree.

    A model of a run without flow says nothing of flow: the other model does, or flow is made as usual.

    Raises:
        StinPipeError: they do not agree, or their description is damaged.
    """
    infos = [(stream, model.info) for stream, own in models.items() for model in own]
    if len({info.classes for _, info in infos}) > 1:
        raise StinPipeError("the two models know different classes; train both on one run")

    stored = [_stored_params(stream, info.extraction) for stream, info in infos]
    with_flow = [replace(params, streams="both") for params in stored if params.stores("flow")]
    frames, flows = [params.only("rgb") for params in stored], with_flow or [_with_usual_flow(stored[0])]
    if any(other != frames[0] for other in frames) or any(other != flows[0] for other in flows):
        raise StinPipeError(
            "the two models were trained on differently extracted videos; train both on one run"
        )
    return flows[0]


def _stored_params(stream: str, value: Mapping[str, Any]) -> ExtractParams:
    """Return the parameters that a model file holds.

    Raises:
        StinPipeError: it holds none, or no extraction has such values.
    """
    if not value:
        raise StinPipeError("the model file does not say how its frames were extracted; train with stin-pipe")
    try:
        return _checked_params(value)
    except (KeyError, TypeError, ValueError) as error:
        fault = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise StinPipeError(
            f"the description of the extraction in the {stream} model is damaged: {fault}; give another "
            "model, or train the stream again"
        ) from error


def _require_bounded(params: ExtractParams) -> None:
    """Refuse what would hold a machine for hours; a model file may come from anybody."""
    longest = max(params.size or (params.short_side or 0,))
    if longest > MAX_SIDE_PX:
        raise ValueError(f"sides must be at most {MAX_SIDE_PX} px to predict, got {longest}")
    if params.fps is not None and params.fps > MAX_FPS:
        raise ValueError(f"fps must be at most {MAX_FPS} to predict, got {params.fps:g}")


def _checked_params(value: Mapping[str, Any]) -> ExtractParams:
    """Return the parameters that a model file holds, with a flow back end of this machine.

    Raises:
        KeyError, TypeError, ValueError: no extraction has such values.
    """
    size = None
    if value["size"] is not None:
        width, height = value["size"]
        size = (width, height)
    for number in (*(size or ()), value.get("short_side") or 0, value.get("stride", 1)):
        if not isinstance(number, int):
            raise ValueError(f"sides and stride must be whole numbers, got {number!r}")

    # A damaged video is worth a prediction, whatever the training thought of such videos.
    params = ExtractParams(**{**value, "size": size, "partial": "keep"})
    _require_bounded(params)
    if params.codec not in ("jpeg", "png"):
        raise ValueError(f"codec must be jpeg or png, got {params.codec!r}")

    if params.flow_backend == IMPORTED:  # the flow images of TSN's tools are TV-L1 too
        params = replace(params, flow=TVL1Params().as_record())
    if not params.stores("flow"):
        return replace(params, flow_backend=NO_FLOW, flow={}, bound_px=NO_BOUND_PX)

    flow = TVL1Params.from_record(params.flow)
    if flow.num_scales * flow.num_warps * flow.max_iterations > MAX_ITERATIONS:
        raise ValueError(
            f"num_scales x num_warps x max_iterations must be at most {MAX_ITERATIONS:,}, got "
            f"{flow.num_scales} x {flow.num_warps} x {flow.max_iterations}"
        )
    # Trained where there was a GPU, or by another tool: all back ends compute the same flow.
    backend = "auto" if params.flow_backend in ("cuda", MIXED, IMPORTED) else params.flow_backend
    return replace(params, flow_backend=resolve_backend(backend))


def _with_usual_flow(params: ExtractParams) -> ExtractParams:
    """Return parameters with the flow that an extraction makes by default."""
    shorter = min(params.size) if params.size else int(params.short_side or 0)
    return replace(
        params,
        streams="both",
        flow_backend=resolve_backend("auto"),
        flow=TVL1Params().as_record(),
        bound_px=usual_bound_px(shorter),
    )
