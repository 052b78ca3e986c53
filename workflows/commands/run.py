"""`stin-pipe run`: the whole chain from one configuration file, resumed where it stopped."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stin_pipe.workflows.terminal.config_file import config_path
from stin_pipe.workflows.terminal.options import common_options, run_option, usage_errors
from stin_pipe.workflows.terminal.output import Output, duration
from stin_pipe.workflows.terminal.types import Names

if TYPE_CHECKING:
    from stin_pipe.stin.network.config import StreamName
    from stin_pipe.workflows.run.chain import Chain
    from stin_pipe.workflows.run.stages import StageState

EXAMPLES = """\b
Examples:
  stin-pipe run --write-config run.toml        # a commented file to start from
  stin-pipe run --config run.toml --dry-run    # the stages, and how far each one is
  stin-pipe run --config run.toml              # do what is left of them
"""


@click.command("run", epilog=EXAMPLES)
@run_option(required=False)
@click.option(
    "--split",
    "splits",
    type=Names(),
    default="all",
    help="Splits to train and evaluate, separated by commas; all takes every split of the data.",
)
@click.option("--dry-run", is_flag=True, help="Only show the stages and how far each one is.")
@click.option(
    "--write-config",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write a commented configuration file to start from, and do nothing else.",
)
@common_options
def run_chain(
    output: Output, run_path: Path | None, splits: tuple[str, ...], dry_run: bool, write_config: Path | None
) -> None:
    """Extract, train both streams on every split, score and fuse, all from one file.

    With `streams = "rgb"` or `"flow"` in [extract] the chain has that stream alone.

    The file has one table for each command, with the options of that command. Give the same command again to
    do what is left: finished stages end at once, others resume. A stage that fails ends the chain with its
    exit code.
    """
    if write_config is not None:
        write_starter(write_config)
        output.show(
            f"wrote {write_config}; set run and videos in it, then: stin-pipe run --config {write_config}"
        )
        output.result({"config": str(write_config)})
        return

    config = config_path(click.get_current_context())
    if config is None:
        raise click.UsageError(
            "--config is missing: a file describes the chain; "
            "`stin-pipe run --write-config run.toml` writes one to start from"
        )

    # Only from here on: these load torch, and a wrong call should not wait for that.
    from stin_pipe.workflows.run.chain import check_chain, check_devices, read_chain
    from stin_pipe.workflows.run.stages import chain_stages

    with usage_errors():
        options = read_chain(click.get_current_context(), config, run_path)
        chain = check_chain(options, splits)
        stages = chain_stages(options.run, chain.splits, options.streams)
        if not dry_run:
            check_devices(options)
    if dry_run:
        show_stages(output, stages)
        links = [stage.to_json() for stage in stages]
        output.result({"run": str(run_path), "splits": list(chain.splits), "stages": links})
        return

    started = time.monotonic()
    results = _do_stages(output, chain, {stage.name for stage in stages if stage.progress == "done"})
    seconds = time.monotonic() - started
    output.say(f"all stages are done ({duration(seconds)})")
    output.result(
        {
            "run": str(run_path),
            "splits": list(chain.splits),
            "seconds": round(seconds, 3),
            "stages": results,
        }
    )


def write_starter(path: Path) -> None:
    """Write the commented configuration file; an existing file is left alone.

    Raises:
        click.UsageError: the file exists.
    """
    content = resources.files("stin_pipe.workflows.commands").joinpath("run.toml").read_text(encoding="utf-8")
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(content)
    except FileExistsError as error:
        raise click.UsageError(f"--write-config: {path} exists; give another name, or delete it") from error


def show_stages(output: Output, stages: Sequence["StageState"]) -> None:
    """Print the chain, one line for each stage."""
    for stage in stages:
        output.show(f"{stage.name:24}{stage.progress:13}{stage.detail}".rstrip())


def _do_stages(output: Output, chain: "Chain", done: set[str]) -> list[dict[str, Any]]:
    """Run every stage in turn, the finished ones too: each checks its own results and ends at once."""
    from stin_pipe.workflows.run.run_dir import create_run, recorded

    # Command, split, and the function that runs the stage and prints to the output it is given.
    stages: list[tuple[str, str | None, Callable[[Output], None]]] = []
    if not chain.videos_are_gone:
        stages.append(("extract", None, partial(_extract, output, chain)))
    for split in chain.splits:
        stages += [
            (f"train-{stream}", split, partial(_train, chain, stream, split))
            for stream in chain.options.streams
        ]
    stages += [("fuse-eval", split, partial(_evaluate, chain, split)) for split in chain.evaluate]

    options = chain.options
    results: list[dict[str, Any]] = []
    record = {"config": str(options.config.absolute()), "splits": list(chain.splits)}
    with recorded(create_run(options.run.path), "run", record):
        if chain.videos_are_gone:
            output.say(f"extract: done; {options.videos} is gone, the shards are used as they are")
        for number, (command, split, do) in enumerate(stages, start=1):
            name = command if split is None else f"{command} split {split}"
            finished = " (done already, only checked)" if name in done else ""
            output.say(f"stage {number} of {len(stages)}: {name}{finished}")
            stage_output = Output(as_json=output.as_json, command=command, keep_result=True)
            with usage_errors():
                do(stage_output)
            results.append({"stage": command, **stage_output.kept})
    return results


def _extract(output: Output, chain: "Chain", stage_output: Output) -> None:
    """Extract; stop the chain if too many videos failed."""
    from stin_pipe.workflows.run.extraction import extract_run
    from stin_pipe.workflows.terminal.extract_report import show_result, shown_extract

    options = chain.options
    with shown_extract(stage_output) as show:
        result = extract_run(options.run.path, options.videos, options.extract, show)
    code = show_result(stage_output, options.run.extract, result, options.extract.max_failure_rate)
    if not code:
        return
    output.warn(
        f"the chain stops at extract (exit code {code}): repair the videos and set retry_failed = true in "
        f"[extract] of {options.config}, or do without them with max_failure_rate = 0.2 there; then give the "
        "same command again"
    )
    output.result({"stages": [{"stage": "extract", **stage_output.kept}], "exit_code": code})
    raise click.exceptions.Exit(code)


def _train(chain: "Chain", stream: "StreamName", split: str, stage_output: Output) -> None:
    from stin_pipe.workflows.run.training import train_run
    from stin_pipe.workflows.terminal.training_report import show_training_result, shown_training

    options = replace(chain.options.trainings[stream], split=split)
    with shown_training(stage_output, f"train {stream}" + (" (plain)" if options.plain else "")) as show:
        result = train_run(chain.options.run.path, stream, options, show, handle_signals=True)
    show_training_result(stage_output, stream, split, result)


def _evaluate(chain: "Chain", split: str, stage_output: Output) -> None:
    from stin_pipe.workflows.report.render import evaluation_pages
    from stin_pipe.workflows.report.text import show_evaluation, shown_events
    from stin_pipe.workflows.run.evaluation import evaluate_run

    options = replace(chain.options.evaluation, split=split)
    with shown_events(stage_output) as show:
        evaluation = evaluate_run(chain.options.run.path, options, show, pages=evaluation_pages())
    show_evaluation(stage_output, evaluation)
