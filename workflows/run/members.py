"""Which trainings take part in an evaluation, and what the evaluation is called."""

from collections.abc import Mapping
from contextlib import suppress

from stin_pipe.stin.evaluation import model_path
from stin_pipe.stin.network.config import StreamName
from stin_pipe.stin.results.stored import members_in, read_metrics
from stin_pipe.stin.scoring.settings import EvalSettings
from stin_pipe.stin.shards.errors import ArgumentError, StinPipeError
from stin_pipe.stin.shards.run_dir import DEFAULT, MAX_NAME, RunDir, check_name, check_training_name
from stin_pipe.stin.shards.schema import STORED_OF, Manifest, streams_in
from stin_pipe.workflows.run.training import require_split

ALL_SPLITS = "all"
Members = Mapping[StreamName, tuple[str, ...]]
"""Stream -> names of the trainings that take part."""


def check_member_names(settings: EvalSettings) -> None:
    """Refuse names that no trainings can have, or that are given twice.

    Raises:
        ValueError: names the option.
    """
    for stream, names in settings.named.items():
        flag = f"--{stream}"
        if stream in settings.files:
            raise ArgumentError(
                f"{flag} and --scores {stream}=FILE exclude each other: a stream is scored by trainings of "
                "the run, or read from a file",
                stream,
                "files",
            )
        if len(set(names)) < len(names):
            raise ArgumentError(f"{flag}: a training is named twice, got {', '.join(names)}", stream)
        for name in names:
            try:
                check_training_name(name, what=flag)
            except ValueError as error:
                raise ArgumentError(str(error), stream) from error


def evaluation_name(settings: EvalSettings, given: str | None) -> str:
    """Return the name of an evaluation: the one given, or one made of the names of its trainings.

    Raises:
        ValueError: the name cannot be that of a folder, or there are too many to make one of.
    """
    named = {stream: names for stream, names in settings.named.items() if names != (DEFAULT,)}
    if given is not None:
        if given == DEFAULT and named:
            raise ArgumentError(
                "--name default: is the evaluation of the default trainings; give another name", "name"
            )
        try:
            return check_name(given, what="--name")
        except ValueError as error:
            raise ArgumentError(str(error), "name") from error
    if not named:
        return DEFAULT

    parts = [f"{stream}-{'+'.join(names)}" for stream, names in named.items()]
    name = "_".join(parts).replace("/", "-")
    if len(name) > MAX_NAME:
        raise ArgumentError(
            f"--name: an evaluation of so many trainings needs a name, because theirs together have "
            f"{len(name)} characters (at most {MAX_NAME})",
            "name",
        )
    return name


def members_of(run: RunDir, split: str, settings: EvalSettings) -> Members:
    """Return the trainings of each stream that take part in an evaluation of a split.

    A stream whose trainings are not named takes part with its default one, if that is trained. Beside score
    files, every stream that they do not replace has to.

    Raises:
        StinPipeError: a training is not finished; names the command to run first.
    """
    members: dict[StreamName, tuple[str, ...]] = {}
    untrained = []
    for stream in settings.scored_streams:
        names = settings.named.get(stream, (DEFAULT,))
        missing = [name for name in names if not model_path(run, stream, split, name).exists()]
        if not missing:
            members[stream] = names
        elif stream in settings.named or settings.files:
            raise _not_trained(run, stream, split, missing[0])
        else:
            untrained.append(stream)

    if untrained and not members:
        raise _not_trained(run, untrained[0], split, DEFAULT)
    if untrained and (settings.tune_fusion or settings.fusion_weights is not None):
        raise _not_trained(run, untrained[0], split, DEFAULT)
    return members


def _not_trained(run: RunDir, stream: StreamName, split: str, name: str) -> StinPipeError:
    named = "" if name == DEFAULT else f" --name {name}"
    folder = run.training(stream, split, name)
    if name == DEFAULT:
        others = [item for item in run.training_names(stream, split) if item != DEFAULT]
        hint = f"; or name its trainings: --{stream} {others[0]}" if others else ""
    else:
        known = ", ".join(run.training_names(stream, split))
        hint = f"; its trainings are: {known}" if known else ""
    what = f"the {stream} stream" if name == DEFAULT else f"training {name} of the {stream} stream"
    return StinPipeError(
        f"{folder}: {what} of split {split} is not trained yet; run `stin-pipe train-{stream} --run "
        f"{run.path} --split {split}{named}` first{hint}"
    )


def members_by_split(
    run: RunDir, manifest: Manifest, split: str, settings: EvalSettings
) -> dict[str, Members]:
    """Return the splits to evaluate, each with the trainings that take part; `all` stands for every one.

    Raises:
        ValueError: the run has no such split.
        StinPipeError: a training is missing; all splits are asked for, and none is trained.
    """
    if split != ALL_SPLITS:
        require_split(manifest, split)
        return {split: members_of(run, split, settings)}

    found: dict[str, Members] = {}
    for one in manifest.split_names:
        with suppress(StinPipeError):  # not trained
            found[one] = members_of(run, one, settings)
    if not found:
        raise StinPipeError(
            f"{run.path}: no split has its streams trained; run train-spatial and train-temporal"
        )
    # A mean over splits is one over the same streams: both, if any split has both.
    streams = max((tuple(members) for members in found.values()), key=len)
    return {one: members for one, members in found.items() if tuple(members) == streams}


def require_own_folder(run: RunDir, split: str, name: str, members: Members) -> None:
    """Refuse to replace the results of other trainings under the name of an evaluation.

    Raises:
        StinPipeError: names the trainings whose results they are.
    """
    before = members_in(read_metrics(run.fusion(split, name)))
    if name == DEFAULT or not before:
        return
    # A stream that was trained since joins the evaluation.
    shared = [(names, before[stream]) for stream, names in members.items() if stream in before]
    if not shared or any(ours != theirs for ours, theirs in shared):
        whose = "; ".join(f"{stream} {', '.join(names)}" for stream, names in before.items())
        raise StinPipeError(
            f"{run.fusion(split, name)}: holds the evaluation of other trainings ({whose}); give another "
            "--name"
        )


def why_untrained(manifest: Manifest | None, split: str, stream: StreamName) -> str:
    """Say why a stream has no model: the run stores nothing to train it on, or it is not trained.

    A run whose manifest cannot be read (None) is taken to store both streams.
    """
    stored = STORED_OF[stream]
    if manifest is None or stored in streams_in(manifest.streams):
        return f"the {stream} stream of split {split} is not trained"
    name = "frames" if stored == "rgb" else "flow"
    return f"the run stores no {name} (the same extract or import command with --streams both adds it)"


def why_alone(manifest: Manifest, split: str, settings: EvalSettings, members: Members) -> str:
    """Say which stream is evaluated alone, and why; empty where two or more are fused."""
    if len(members) + len(settings.files) > 1:
        return ""
    (stream,) = members
    other = "temporal" if stream == "spatial" else "spatial"
    why = why_untrained(manifest, split, other)
    return f"{why}: the {stream} stream is evaluated alone, and nothing is fused"
