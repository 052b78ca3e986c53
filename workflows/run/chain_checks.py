"""What a configuration file asks of the stages of the chain, read and checked before the first one begins."""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stin_pipe.workflows.run.stages import TRAININGS
from stin_pipe.workflows.terminal.config_file import place_in_file
from stin_pipe.workflows.terminal.options import usage_errors

if TYPE_CHECKING:
    from stin_pipe.stin.shards.run_dir import RunDir
    from stin_pipe.stin.training.config import TrainConfig


def stage_context(
    ctx: click.Context,
    config: Path,
    command: str,
    run_path: Path,
    *arguments: str,
    files_are_here: bool = True,
) -> click.Context:
    """Read the options of one stage as its own command would, from flags, environment and file.

    Args:
        ctx: of the command that reads the chain.
        config: the configuration file.
        command: the stage.
        run_path: the run directory.
        arguments: further words of the stage's command line.
        files_are_here: whether files and folders that options name must exist on this machine.

    Raises:
        click.UsageError: a value that the stage would refuse, or a split in its table.
    """
    root = ctx.find_root()
    assert isinstance(root.command, click.Group)
    found = root.command.get_command(root, command)
    assert found is not None
    if not files_are_here:
        found = _with_paths_unchecked(found)
    given = ["--config", str(config), "--run", str(run_path), *arguments]
    try:
        stage = found.make_context(command, given, parent=root)
    except click.MissingParameter as error:
        option = max(error.param.opts, key=len).lstrip("-") if error.param else "an option"
        raise click.UsageError(f"{config}: [{command}] needs a value for {option}") from error
    if place := place_in_file(stage, "split"):
        raise click.UsageError(
            f"{config}: {place} has split, which the chain does not read; "
            'write split = "..." above all tables'
        )
    return stage


def known_data(run: "RunDir", extract_params: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Return data set and names of the splits of the run, or, before it exists, of the lists."""
    from stin_pipe.pipeline.listing.find_videos import list_videos
    from stin_pipe.stin.shards.schema import Manifest

    if run.manifest.exists():
        manifest = Manifest.load(run.manifest)
        return manifest.dataset, list(manifest.split_names)
    listing = list_videos(
        extract_params["videos"],
        dataset=extract_params["dataset"],
        splits_dir=extract_params["splits"],
        list_csv=extract_params["list_csv"],
    )
    return listing.dataset, list(listing.split_names)


def check_trainings(
    config: Path, dataset: str, trainings: Sequence[click.Context]
) -> dict[str, "TrainConfig"]:
    """Refuse training options that only the trainings themselves would refuse, after the extraction.

    Returns:
        stream -> its configuration.

    Raises:
        click.UsageError: names the file, the table or tables, and what is wrong.
    """
    from stin_pipe.workflows.run.training import TrainOptions, training_config

    found = {}
    for stage in trainings:
        command = stage.command.name or ""
        stream = "spatial" if command == "train-spatial" else "temporal"
        try:
            values = {
                name: value for name, value in stage.params.items() if name not in ("output", "run_path")
            }
            found[stream] = training_config(stream, dataset, TrainOptions(**values))
        except ValueError as error:
            raise click.UsageError(f"{config}: [train] or [{command}]: {error}") from error
    return found


def check_evaluation(
    config: Path,
    evaluation: click.Context,
    trainings: Mapping[str, "TrainConfig"],
    splits: Sequence[str],
    *,
    files_are_here: bool = True,
) -> None:
    """Refuse options of fuse-eval that do not fit each other, the trainings or the splits.

    Raises:
        click.UsageError: names the file, the table, and what is wrong.
        StinPipeError: a score file is not there.
    """
    from stin_pipe.workflows.run.evaluation import EvalOptions, check_held_out, check_options, check_segments

    values: dict[str, Any] = {item.name: evaluation.params[item.name] for item in fields(EvalOptions)}
    values["split"] = splits[0] if len(splits) == 1 else "all"
    options = EvalOptions(**values)
    try:
        check_options(options, files_are_here=files_are_here)
        check_segments(options, spatial=trainings["spatial"].stream)
        check_held_out(options, trainings)
    except ValueError as error:
        raise click.UsageError(f"{config}: [fuse-eval]: {error}") from error


def check_devices(config: Path, stages: Sequence[click.Context]) -> None:
    """Refuse devices that this machine lacks; train workers on a Ray cluster look for theirs themselves.

    Raises:
        click.UsageError: names the file, the table or tables, and which devices there are.
    """
    from stin_pipe.stin.device import choose_device, resolve_amp

    for stage in stages:
        command = stage.command.name or ""
        tables = f"[train] or [{command}]" if command.startswith("train-") else f"[{command}]"
        if not stage.params.get("train_workers"):
            try:
                with usage_errors():
                    resolve_amp(stage.params["amp"], choose_device(stage.params["device"]))
            except click.UsageError as error:
                raise click.UsageError(f"{config}: {tables}: {error.message}") from error


def require_run(config: Path, run_path: Path | None) -> Path:
    """Return the run directory.

    Raises:
        click.UsageError: neither the file nor an option names it.
    """
    if run_path is None:
        raise click.UsageError(f'{config}: the run directory is missing; write run = "DIR" above the tables')
    return run_path


def checked_chain(
    ctx: click.Context, config: Path, run_path: Path | None, wanted: Sequence[str]
) -> tuple[Path, Path, list[str], list[str]]:
    """Read and check all tables for a job.

    Returns:
        configuration file, run directory, known splits and chosen splits.

    Raises:
        click.UsageError: names the file, the table, and what is wrong.
    """
    from stin_pipe.stin.shards.run_dir import RunDir

    run = RunDir(path=require_run(config, run_path).absolute())
    extract, evaluation, *trainings = (
        stage_context(ctx, config, command, run.path) for command in ("extract", "fuse-eval", *TRAININGS)
    )
    dataset, known = known_data(run, extract.params)
    splits = chosen_splits(known, wanted)
    check_evaluation(config, evaluation, check_trainings(config, dataset, trainings), splits)
    return config, run.path, known, splits


def check_tables_for_pods(ctx: click.Context, config: Path, run_path: Path, wanted: Sequence[str]) -> None:
    """Check all tables of the chain where its videos, lists and files are not.

    Raises:
        click.UsageError: names the file, the table, and what is wrong.
    """
    extract, evaluation, *trainings = (
        stage_context(ctx, config, command, run_path, files_are_here=False)
        for command in ("extract", "fuse-eval", *TRAININGS)
    )
    from stin_pipe.workflows.run.training import RECIPE_OF_DATASET

    named = extract.params["dataset"]
    configs: dict[str, TrainConfig] = {}
    mistake = None
    for dataset in ("folder", *RECIPE_OF_DATASET) if named == "auto" else (named,):
        try:  # which data set it is decides the recipe, and shows only where the lists are
            configs = check_trainings(config, dataset, trainings)
            break
        except click.UsageError as error:
            mistake = mistake or error
    else:
        assert mistake is not None
        raise mistake
    splits = wanted if tuple(wanted) != ("all",) else ("1",)
    check_evaluation(config, evaluation, configs, splits, files_are_here=False)


def chosen_splits(known: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """Return the splits to work on.

    Raises:
        click.UsageError: a split that is not there.
    """
    splits = list(known) if tuple(wanted) == ("all",) else list(dict.fromkeys(wanted))
    for split in splits:
        if split not in known:
            names = ", ".join(known)
            raise click.UsageError(f"--split: {split!r} is not in this data; its splits are: {names}")
    return splits


def _with_paths_unchecked(command: click.Command) -> click.Command:
    """Return the command with options that take any path: pods see other folders than this machine."""
    command = copy(command)
    command.params = [copy(item) for item in command.params]
    for item in command.params:
        if isinstance(item.type, click.Path):
            item.type = click.Path(path_type=Path)
    return command
