"""The chain that a configuration file describes, read and checked before the first stage starts.

A mistake in the last table should not show after days of extraction and training.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from stin_pipe.pipeline.listing.find_videos import list_videos
from stin_pipe.stin.device import choose_device, resolve_amp
from stin_pipe.stin.network.config import StreamName
from stin_pipe.stin.scoring.settings import STREAMS
from stin_pipe.stin.shards.errors import ArgumentError
from stin_pipe.stin.shards.run_dir import RunDir
from stin_pipe.stin.shards.schema import STORED_OF, Manifest, Streams, join_streams, streams_in
from stin_pipe.stin.training.config import TrainConfig
from stin_pipe.workflows.run.evaluation import (
    EvalOptions,
    check_held_out,
    check_options,
    check_segments,
)
from stin_pipe.workflows.run.extraction import ExtractOptions
from stin_pipe.workflows.run.members import ALL_SPLITS
from stin_pipe.workflows.run.stages import extract_state, stored_streams
from stin_pipe.workflows.run.training import RECIPE_OF_DATASET, TrainOptions, training_config
from stin_pipe.workflows.terminal.stage_values import read_stage


@dataclass(frozen=True, kw_only=True)
class ChainOptions:
    """What the tables of a configuration file ask of the stages.

    Attributes:
        config: the configuration file.
        run: the run directory.
        videos: folder of the videos.
    """

    config: Path
    run: RunDir
    videos: Path
    extract: ExtractOptions
    trainings: Mapping[StreamName, TrainOptions]
    evaluation: EvalOptions

    @property
    def streams(self) -> tuple[StreamName, ...]:
        """Streams that are trained: those whose frames or flow the run stores, or will."""
        return tuple(self.trainings)


@dataclass(frozen=True, kw_only=True)
class Chain:
    """A chain that has been checked.

    Attributes:
        splits: to train and evaluate.
        evaluate: values of `fuse-eval --split`: each of these splits, or all of them together.
        videos_are_gone: the run has everything extracted, and the folder of videos was deleted since.
    """

    options: ChainOptions
    splits: tuple[str, ...]
    evaluate: tuple[str, ...]
    videos_are_gone: bool


def read_chain(
    ctx: click.Context, config: Path, run_path: Path | None, *, files_are_here: bool = True
) -> ChainOptions:
    """Read the tables of all stages.

    Args:
        ctx: of the command that reads the chain.
        config: the configuration file.
        run_path: the run directory; None raises an error that says what to write.
        files_are_here: whether files and folders that options name must exist on this machine.

    Raises:
        ValueError: the run directory is missing.
        click.UsageError: names the file, the table, and what is wrong.
    """
    if run_path is None:
        raise ValueError(f'{config}: the run directory is missing; write run = "DIR" above the tables')
    run = RunDir(path=run_path.absolute())

    def read(command: str, *, files_are_here: bool = files_are_here) -> dict[str, Any]:
        return read_stage(ctx, config, command, run.path, files_are_here=files_are_here)

    # After a finished extraction the videos may be deleted to save disk; the chain goes on without them.
    is_extracted = extract_state(run).progress == "done"
    extract = read("extract", files_are_here=files_are_here and not is_extracted)
    videos = extract.pop("videos")
    del extract["dry_run"]  # a flag of the command; the chain has its own

    evaluation = EvalOptions(**read("fuse-eval"))
    streams = _streams(run, videos, extract["streams"])
    if len(streams) == 1 and not evaluation.files:
        # A file made for both streams may have weights; one stream has nothing to weigh.
        evaluation = replace(evaluation, fusion_weights=None)
    return ChainOptions(
        config=config,
        run=run,
        videos=videos,
        extract=ExtractOptions(**extract),
        trainings={stream: TrainOptions(**read(f"train-{stream}")) for stream in streams},
        evaluation=evaluation,
    )


def _streams(run: RunDir, videos: Path, asked: Streams) -> tuple[StreamName, ...]:
    """Return the streams that can be trained once the extraction is done."""
    stored = stored_streams(run)
    if stored is not None:
        asked = join_streams([asked, stored]) if videos.exists() else stored
    return tuple(stream for stream in STREAMS if STORED_OF[stream] in streams_in(asked))


def read_checked_chain(
    ctx: click.Context, config: Path, run_path: Path | None, splits: Sequence[str]
) -> Chain:
    """Read and check a chain for jobs, which start with the extraction; see `read_chain` and `check_chain`.

    Raises:
        ValueError: names the file, the table, and what is wrong; the folder of videos must exist.
    """
    chain = check_chain(read_chain(ctx, config, run_path), splits)
    if chain.videos_are_gone:
        raise ValueError(f"{config}: [extract]: videos = {str(chain.options.videos)!r} does not exist")
    return chain


def check_chain(options: ChainOptions, splits: Sequence[str]) -> Chain:
    """Refuse what a stage would refuse only when its turn comes.

    Args:
        options: of all stages.
        splits: names of the splits to work on; `all` is every split of the data.

    Raises:
        ValueError: names the file, the table, and what is wrong.
        StinPipeError: a score file is missing.
    """
    dataset, known = _known_data(options)
    chosen = _chosen_splits(known, splits)
    _check_tables(options, dataset, chosen)
    return Chain(
        options=options,
        splits=tuple(chosen),
        evaluate=(ALL_SPLITS,) if chosen == known and len(known) > 1 else tuple(chosen),
        videos_are_gone=not options.videos.exists(),
    )


def check_for_pods(options: ChainOptions, splits: Sequence[str]) -> None:
    """Check all tables where the videos, lists and files of the chain cannot be seen.

    Raises:
        ValueError: names the file, the table, and what is wrong.
    """
    # The data set decides the recipe, but only the lists show which data set it is: one that fits will do.
    named = options.extract.dataset
    datasets = ("folder", *RECIPE_OF_DATASET) if named == "auto" else (named,)
    chosen = ("1",) if tuple(splits) == (ALL_SPLITS,) else splits
    mistakes = []
    for dataset in datasets:
        try:
            return _check_tables(options, dataset, chosen, files_are_here=False)
        except ValueError as error:
            mistakes.append(error)
    raise mistakes[0]


def check_devices(options: ChainOptions) -> None:
    """Refuse devices that this machine lacks; train workers on a Ray cluster look for theirs themselves.

    Raises:
        ValueError: names the file, the table or tables, and which devices there are.
    """
    for stream, training in options.trainings.items():
        if training.train_workers is None:
            with _blamed_on(options.config, f"[train] or [train-{stream}]"):
                resolve_amp(training.amp, choose_device(training.device))
    with _blamed_on(options.config, "[fuse-eval]"):
        resolve_amp(options.evaluation.amp, choose_device(options.evaluation.device))


def _check_tables(
    options: ChainOptions, dataset: str, splits: Sequence[str], *, files_are_here: bool = True
) -> None:
    configs: dict[str, TrainConfig] = {}
    for stream, training in options.trainings.items():
        with _blamed_on(options.config, f"[train] or [train-{stream}]"):
            configs[stream] = training_config(stream, dataset, training)

    # No model exists yet, so the evaluation is checked against the trainings that will make them.
    evaluation = replace(options.evaluation, split=splits[0] if len(splits) == 1 else ALL_SPLITS)
    with _blamed_on(options.config, "[fuse-eval]"):
        if evaluation.tune_fusion and len(options.streams) == 1:
            raise ArgumentError(
                f"--tune-fusion weighs two streams, but this chain has the {options.streams[0]} one alone; "
                "leave it out",
                "tune_fusion",
            )
        check_options(evaluation, files_are_here=files_are_here)
        if "spatial" in configs:
            check_segments(evaluation, spatial=configs["spatial"].stream)
        check_held_out(evaluation, configs)


def _known_data(options: ChainOptions) -> tuple[str, list[str]]:
    """Return data set and splits of the run or, before it exists, of the lists."""
    run, extract = options.run, options.extract
    if run.manifest.exists():  # the run knows, and its lists may be gone
        manifest = Manifest.load(run.manifest)
        return manifest.dataset, list(manifest.split_names)
    listing = list_videos(
        options.videos, dataset=extract.dataset, splits_dir=extract.splits, list_csv=extract.list_csv
    )
    return listing.dataset, list(listing.split_names)


def _chosen_splits(known: Sequence[str], splits: Sequence[str]) -> list[str]:
    chosen = list(known) if tuple(splits) == (ALL_SPLITS,) else list(dict.fromkeys(splits))
    for split in chosen:
        if split not in known:
            raise ArgumentError(
                f"--split: {split!r} is not in this data; its splits are: {', '.join(known)}", "splits"
            )
    return chosen


@contextmanager
def _blamed_on(config: Path, tables: str) -> Iterator[None]:
    """Name the file and its table in front of a mistake; several commands read the file."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{config}: {tables}: {error}") from error
