"""The trained streams that a command works with: from a run, or from model files."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from stin_pipe.pipeline.planning.plan import ExtractParams
    from stin_pipe.stin.network.model_file import TrainedModel


def load_models(run_path: Path | None, options: dict[str, Any]) -> dict[str, "TrainedModel"]:
    """Load the streams of a run's split, or those of the model files; by name.

    Raises:
        click.UsageError: neither or both are given, or two models of one stream.
        StinPipeError: no stream is trained, or a file is no model.
    """
    from stin_pipe.stin.device import choose_device
    from stin_pipe.stin.network.model_file import load_model
    from stin_pipe.stin.shards.errors import StinPipeError
    from stin_pipe.workflows.run.run_dir import open_run

    if bool(run_path) == bool(options["model_paths"]):
        raise click.UsageError("give either --run or --model")
    device = choose_device(options["device"])
    paths: list[Path] = list(options["model_paths"])
    if run_path:
        run = open_run(run_path)
        folders = [run.training(stream, options["split"]) for stream in ("spatial", "temporal")]
        paths = [
            folder / "model.safetensors" for folder in folders if (folder / "model.safetensors").exists()
        ]
        if not paths:
            raise StinPipeError(
                f"{run.path}: no stream of split {options['split']} is trained yet; run "
                f"`stin-pipe train-spatial --run {run.path}` or train-temporal first"
            )
    models: dict[str, TrainedModel] = {}
    for path in paths:
        model = load_model(path, device=device)
        if model.info.stream_name in models:
            raise click.UsageError(
                f"--model {path}: a second {model.info.stream_name} model; give one of each"
            )
        models[model.info.stream_name] = model
    return models


def common_params(models: dict[str, "TrainedModel"]) -> "ExtractParams":
    """Return how frames and flow are to be made, which the models must agree on.

    Raises:
        StinPipeError: they do not agree, or what they say is damaged.
    """
    from stin_pipe.stin.shards.errors import StinPipeError

    infos = [model.info for model in models.values()]
    if len({info.classes for info in infos}) > 1:
        raise StinPipeError("the two models know different classes; train both on one run")
    made = [dict(info.extraction) for info in infos]
    if any(other != made[0] for other in made):
        raise StinPipeError(
            "the two models were trained on differently extracted videos; train both on one run"
        )
    value = made[0]
    if not value:
        raise StinPipeError("the model file does not say how its frames were extracted; train with stin-pipe")
    try:
        return _params_here(value)
    except (KeyError, TypeError, ValueError) as error:
        said = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise StinPipeError(
            f"the {' and the '.join(models)} model says wrongly how its frames were extracted: {said}; give "
            "another model, or train the stream again"
        ) from error


def _params_here(value: Mapping[str, Any]) -> "ExtractParams":
    """Return the parameters that a model file holds, with a flow back end of this machine.

    Raises:
        KeyError, TypeError, ValueError: the values are those of no extraction.
    """
    from stin_pipe.pipeline.flow import TVL1Params, resolve_backend
    from stin_pipe.pipeline.planning.plan import IMPORTED, MIXED, ExtractParams

    size = None
    if value["size"] is not None:
        width, height = value["size"]
        size = (width, height)
    for whole in (*(size or ()), value.get("short_side") or 0, value.get("stride", 1)):
        if not isinstance(whole, int):
            raise ValueError(f"sides and stride must be whole numbers, got {whole!r}")
    params = ExtractParams(**{**value, "size": size, "partial": "keep"})
    if params.codec not in ("jpeg", "png"):
        raise ValueError(f"codec must be jpeg or png, got {params.codec!r}")
    if params.flow_backend == IMPORTED:  # the flow images of TSN's tools are TV-L1 too
        params = replace(params, flow=asdict(TVL1Params()))
    TVL1Params(**params.flow)
    # Trained where there was a GPU, or by another tool: the back ends have one meaning.
    backend = "auto" if params.flow_backend in ("cuda", MIXED, IMPORTED) else params.flow_backend
    return replace(params, flow_backend=resolve_backend(backend))
