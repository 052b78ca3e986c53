"""`stin-pipe run`: the whole chain from one configuration file, resumed where it was left."""

import time
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stin_pipe.workflows.run.chain_checks import (
    check_devices,
    check_evaluation,
    check_trainings,
    chosen_splits,
    known_data,
    require_run,
    stage_context,
)
from stin_pipe.workflows.run.stages import TRAININGS, StageState, chain_stages
from stin_pipe.workflows.terminal.config_file import config_path
from stin_pipe.workflows.terminal.options import common_options, run_option
from stin_pipe.workflows.terminal.output import Output, duration
from stin_pipe.workflows.terminal.types import Names

if TYPE_CHECKING:
    from stin_pipe.stin.shards.run_dir import RunDir

EXAMPLES = """\b
Examples:
  stin-pipe run --write-config run.toml        # a commented file to start from
  stin-pipe run --config run.toml --dry-run    # the stages, and how far each is
  stin-pipe run --config run.toml              # do what is left of them
"""


@click.command("run", epilog=EXAMPLES)
@run_option(required=False)
@click.option(
    "--split",
    "wanted",
    type=Names(),
    default="all",
    help="Splits to train and evaluate, separated by commas; all is every split of the lists.",
)
@click.option("--dry-run", is_flag=True, help="Only show the stages and how far each is.")
@click.option(
    "--write-config",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write a commented configuration file to start from, and do nothing else.",
)
@common_options
def run_chain(
    output: Output, run_path: Path | None, wanted: tuple[str, ...], dry_run: bool, write_config: Path | None
) -> None:
    """Extract, train both streams on every split, score and fuse, as one file says.

    The file has a table a command, with the options of that command. The same command again does what is
    left: finished stages end at once, others resume. A stage that fails ends the chain with its exit code.
    """
    from stin_pipe.stin.shards.run_dir import RunDir
    from stin_pipe.workflows.run.run_dir import create_run, recorded

    if write_config is not None:
        write_starter(write_config)
        output.show(
            f"wrote {write_config}; set run and videos in it, then: stin-pipe run --config {write_config}"
        )
        output.result({"config": str(write_config)})
        return
    ctx = click.get_current_context()
    config = config_path(ctx)
    if config is None:
        raise click.UsageError(
            "--config is missing: the chain is described by a file; "
            "`stin-pipe run --write-config run.toml` writes one to start from"
        )
    run_path = require_run(config, run_path)
    run = RunDir(path=run_path.absolute())
    extract, videos_gone = _extract_context(ctx, config, run)
    evaluation = stage_context(ctx, config, "fuse-eval", run_path)  # all is read before hours of work
    trainings = [stage_context(ctx, config, command, run_path) for command in TRAININGS]
    dataset, known = known_data(run, extract.params if extract else {})
    splits = chosen_splits(known, wanted)
    configs = check_trainings(config, dataset, trainings)
    check_evaluation(config, evaluation, configs, splits)
    stages = chain_stages(run, splits)
    if dry_run:
        show_stages(output, stages)
        output.result(
            {"run": str(run_path), "splits": splits, "stages": [stage.to_json() for stage in stages]}
        )
        return
    check_devices(config, [*trainings, evaluation])
    run = create_run(run_path)
    started = time.monotonic()
    work: list[tuple[str, str | None]] = [("extract", None)] if extract else []
    work += [(command, split) for split in splits for command in TRAININGS]
    work += [("fuse-eval", split) for split in (["all"] if splits == known and len(splits) > 1 else splits)]
    done = {stage.name for stage in stages if stage.progress == "done"}
    results: list[dict[str, Any]] = []
    with recorded(run, "run", {"config": str(config.absolute()), "splits": splits}):
        if extract is None:
            output.say(f"extract: done; {videos_gone} is gone, the shards are used as they are")
        for number, (command, split) in enumerate(work, start=1):
            name = command if split is None else f"{command} split {split}"
            finished = " (done already, checked only)" if name in done else ""
            output.say(f"stage {number} of {len(work)}: {name}{finished}")
            arguments = () if split is None else ("--split", split)
            stage = stage_context(ctx, config, command, run_path, *arguments)
            results.append(_do(output, stage, config, name))
    seconds = time.monotonic() - started
    output.say(f"all stages are done ({duration(seconds)})")
    output.result({"run": str(run_path), "splits": splits, "seconds": round(seconds, 3), "stages": results})


def write_starter(path: Path) -> None:
    """Write the commented configuration file; an existing file is left alone.

    Raises:
        click.UsageError: the file exists.
    """
    content = resources.files("stin_pipe.workflows.jobs").joinpath("run.toml").read_text(encoding="utf-8")
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(content)
    except FileExistsError as error:
        raise click.UsageError(f"--write-config: {path} exists; give another name, or delete it") from error


def show_stages(output: Output, stages: Sequence[StageState]) -> None:
    """Print the chain, a line a stage."""
    for stage in stages:
        output.show(f"{stage.name:24}{stage.progress:13}{stage.detail}".rstrip())


def _extract_context(ctx: click.Context, config: Path, run: "RunDir") -> tuple[click.Context | None, str]:
    """Read extract's options; None when all is extracted and the videos have been deleted since."""
    try:
        return stage_context(ctx, config, "extract", run.path), ""
    except click.BadParameter as error:
        if error.param is None or error.param.name != "videos" or error.ctx is None:
            raise
        if chain_stages(run, [])[0].progress != "done":
            raise
        return None, str((error.ctx.default_map or {}).get("videos", "the folder of videos"))


def _do(output: Output, stage: click.Context, config: Path, name: str) -> dict[str, Any]:
    """Run one stage in this process; return its result."""
    command = stage.command.name or ""
    voice = Output(as_json=output.as_json, command=command, keep_result=True)
    stage.params["output"] = voice
    try:
        with stage:
            stage.command.invoke(stage)
    except click.exceptions.Exit as stop:
        if stop.exit_code:
            advice = (
                f"mend the videos and set retry_failed = true in [extract] of {config}, or accept the loss "
                "with max_failure_rate = 0.2 there; the same command then goes on"
            )
            output.warn(f"the chain stops at {name} (exit code {stop.exit_code}): {advice}")
            output.result({"stages": [{"stage": command, **voice.kept}], "exit_code": stop.exit_code})
            raise
    return {"stage": command, **voice.kept}
