"""The trained streams of a prediction, from a run or from files, and how their videos were extracted."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from stin_pipe.pipeline.flow import TVL1Params, resolve_backend
from stin_pipe.pipeline.planning.plan import IMPORTED, MIXED, ExtractParams
from stin_pipe.stin.network.model_file import TrainedModel, load_model
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.run_dir import RunDir


def model_files_of(run: RunDir, split: str) -> list[Path]:
    """Return the model files of a run's split.

    Raises:
        StinPipeError: no stream is trained.
    """
    files = [run.training(stream, split) / "model.safetensors" for stream in ("spatial", "temporal")]
    files = [file for file in files if file.exists()]
    if not files:
        raise StinPipeError(
            f"{run.path}: no stream of split {split} is trained yet; run `stin-pipe train-spatial --run "
            f"{run.path}` or train-temporal first"
        )
    return files


def load_streams(files: Sequence[Path], *, device: torch.device) -> dict[str, TrainedModel]:
    """Load one or both streams, by name, the spatial one first.

    Raises:
        ValueError: two files of one stream.
        StinPipeError: a file is no model.
    """
    models: dict[str, TrainedModel] = {}
    for file in files:
        model = load_model(file, device=device)
        stream = model.info.stream_name
        if stream in models:
            raise ValueError(f"{file} is a second {stream} model; give one of each stream")
        models[stream] = model
    return {stream: models[stream] for stream in sorted(models)}


def common_params(models: Mapping[str, TrainedModel]) -> ExtractParams:
    """Return how frames and flow are to be made, on which the models must agree.

    Raises:
        StinPipeError: they do not agree, or their description is damaged.
    """
    infos = [model.info for model in models.values()]
    if len({info.classes for info in infos}) > 1:
        raise StinPipeError("the two models know different classes; train both on one run")

    extractions = [dict(info.extraction) for info in infos]
    first = extractions[0]
    if any(other != first for other in extractions):
        raise StinPipeError(
            "the two models were trained on differently extracted videos; train both on one run"
        )
    if not first:
        raise StinPipeError("the model file does not say how its frames were extracted; train with stin-pipe")

    try:
        return _params_here(first)
    except (KeyError, TypeError, ValueError) as error:
        fault = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise StinPipeError(
            f"the description of the extraction in the {' and the '.join(models)} model is damaged: {fault}; "
            "give another model, or train the stream again"
        ) from error


def _params_here(value: Mapping[str, Any]) -> ExtractParams:
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
    if params.codec not in ("jpeg", "png"):
        raise ValueError(f"codec must be jpeg or png, got {params.codec!r}")

    if params.flow_backend == IMPORTED:  # the flow images of TSN's tools are TV-L1 too
        params = replace(params, flow=TVL1Params().as_record())
    TVL1Params.from_record(params.flow)

    # Trained where there was a GPU, or by another tool: all back ends compute the same flow.
    backend = "auto" if params.flow_backend in ("cuda", MIXED, IMPORTED) else params.flow_backend
    return replace(params, flow_backend=resolve_backend(backend))
