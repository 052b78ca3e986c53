"""The options of fuse-eval, checked together before any work."""

from collections.abc import Mapping
from typing import Any

import click

from stin_pipe.stin.device import choose_device, resolve_amp
from stin_pipe.stin.results.score_files import require_score_file
from stin_pipe.stin.scoring.fusion import check_weights
from stin_pipe.stin.training.config import SpatialConfig, TemporalConfig, TrainConfig
from stin_pipe.workflows.run.score_streams import EvalSettings
from stin_pipe.workflows.terminal.options import usage_errors


def eval_settings(options: Mapping[str, Any], *, files_are_here: bool = True) -> EvalSettings:
    """Return the settings that fuse-eval has with these options.

    Args:
        options: values by the names of the command's parameters.
        files_are_here: whether score files must exist on this machine.

    Raises:
        click.UsageError: options that do not fit together; names the option.
        StinPipeError: a score file is not there.
    """
    files = dict(options["files"])
    if len(files) < len(options["files"]):
        raise click.UsageError("--scores: a stream is named more than once")
    if options["tune_fusion"] and (options["fusion_weights"] is not None or files):
        other = "--fusion-weights" if options["fusion_weights"] is not None else "--scores"
        raise click.UsageError(
            f"--tune-fusion and {other} exclude each other: weights are chosen on held-out videos that both "
            "streams of the run score"
        )
    if files and options["split"] == "all":
        raise click.UsageError("--scores: a file is of one split; give --split N")
    if files_are_here:
        for file in files.values():
            require_score_file(file)
    settings = EvalSettings(
        segments=options["segments"],
        crops=int(options["crops"]),
        weights=options["fusion_weights"],
        tune=options["tune_fusion"],
        when="before_softmax" if options["when"] == "before-softmax" else "after_softmax",
        aux=options["aux"],
        files=files,
        amp=options["amp"],
        device=options["device"],
        loader_workers=options["loader_workers"],
    )
    if settings.weights is None and (further := settings.names[2:]):
        needs = "needs a weight of its own" if len(further) == 1 else "need weights of their own"
        raise click.UsageError(
            f"--fusion-weights: {' and '.join(further)} {needs}: give 1,1.5{',W' * len(further)}"
        )
    try:
        check_weights(settings.given_weights, names=settings.names)
    except ValueError as error:
        raise click.UsageError(f"--fusion-weights: {error}") from error
    return settings


def check_segments(settings: EvalSettings, *, spatial: SpatialConfig | TemporalConfig) -> None:
    """Refuse one clip where the spatial stream compares frames of several.

    Raises:
        click.UsageError: says what is wanted.
    """
    if settings.segments < 2 and "spatial" not in settings.files and not spatial.is_plain:
        raise click.UsageError(
            f"--segments: the spatial stream compares clips of a video, so it needs 2 or more, got "
            f"{settings.segments}; with --plain it is trained without"
        )


def check_held_out(settings: EvalSettings, trainings: Mapping[str, TrainConfig]) -> None:
    """Refuse --tune-fusion where a training will hold no video out.

    Raises:
        click.UsageError: names the stream.
    """
    for stream, config in trainings.items():
        if settings.tune and config.val_share == 0:
            raise click.UsageError(
                f"--tune-fusion: the {stream} stream holds no video out (val_share = 0); set val_share = 0.1 "
                "for both trainings, or leave it out"
            )


def check_device(settings: EvalSettings) -> None:
    """Refuse a device that is not here, or a precision that it lacks.

    Raises:
        click.UsageError: says which devices there are.
    """
    with usage_errors():
        resolve_amp(settings.amp, choose_device(settings.device))
