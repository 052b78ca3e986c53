"""The stages of the command line as functions: `extract`, `train` and `evaluate`.

Each takes the options of its command, by the names and with the defaults of the flags. Values are checked as
on the command line; a wrong one is a ``ValueError``. ``progress`` is called with small frozen dataclasses
that describe the work as it goes on. Nothing is printed, signals are left alone, and the same call resumes.
"""

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal, cast

import click

from stin_pipe.pipeline.extraction import ExtractEvent, ExtractResult
from stin_pipe.stin.evaluation import EvalEvent
from stin_pipe.stin.training.report import TrainEvent, TrainResult
from stin_pipe.workflows.commands import extract as extract_command
from stin_pipe.workflows.commands import fuse_eval as fuse_eval_command
from stin_pipe.workflows.commands import train as train_command
from stin_pipe.workflows.report.render import evaluation_pages
from stin_pipe.workflows.run.evaluation import EvalOptions, Evaluation, evaluate_run
from stin_pipe.workflows.run.extraction import ExtractOptions, extract_run
from stin_pipe.workflows.run.training import TrainOptions, train_run

PathName = str | PathLike[str]


def extract(
    run: PathName,
    videos: PathName,
    *,
    dataset: Literal["auto", "ucf101", "hmdb51", "folder"] = "auto",
    splits: PathName | None = None,
    list: PathName | None = None,
    streams: Literal["both", "rgb", "flow"] = "both",
    classes: Sequence[str] | None = None,
    match: Sequence[str] = (),
    limit: int | None = None,
    flow: Literal["auto", "cuda", "cpu", "opencv", "reference"] = "auto",
    flow_set: Mapping[str, Any] | None = None,
    size: str | tuple[int, int] | None = None,
    short_side: int | None = None,
    bound: float | None = None,
    fps: float | None = None,
    stride: int = 1,
    flow_pairs: Literal["stored", "source"] = "stored",
    interlaced: Literal["deinterlace", "keep"] = "deinterlace",
    codec: Literal["jpeg", "png"] = "jpeg",
    partial: Literal["keep", "refuse"] = "keep",
    timeout: float = 3600.0,
    retry_failed: bool = False,
    max_failure_rate: float = 0.05,
    runner: Literal["auto", "ray", "local"] = "auto",
    address: str | None = None,
    workers: int | None = None,
    gpus_per_worker: float = 0.25,
    cpus_per_worker: int = 4,
    allow_mixed_flow: bool = False,
    break_lock: bool = False,
    progress: Callable[[ExtractEvent], None] | None = None,
) -> ExtractResult:
    """Extract frames and TV-L1 flow of a folder of videos into a run, as `stin-pipe extract` does.

    Args:
        run: run directory; made where it is missing.
        videos: folder of videos, ``videos/<class>/<video>``.
        dataset: where labels come from; ``auto`` looks at the lists in ``splits``.
        splits: folder of UCF-style or HMDB-style split lists.
        list: CSV of path,label[,split,start_s,end_s] in place of class folders.
        streams: what to store: frames (``rgb``), flow, or both; a later ``both`` adds what a run lacks.
        classes: use these classes alone.
        match: use files whose path or name fits one of these globs.
        limit: most videos to use, spread over the classes.
        flow: flow back end; ``auto`` is cuda where there is a GPU, else cpu.
        flow_set: parameters of TV-L1 by name, such as ``{"num_warps": 10}``.
        size: stored frame size, ``"340x256"`` or (width, height) in pixels.
        short_side: stored length of the shorter side in pixels, aspect kept.
        bound: largest motion stored, pixels a frame; None is 20 at 256 rows, in proportion.
        fps: choose frames by time for this rate; a video with fewer keeps them all, none is repeated.
        stride: keep every stride-th frame.
        flow_pairs: flow leads from a stored frame to the next ``stored`` one, or to the next of the
            ``source``; they differ with ``fps`` or ``stride``.
        interlaced: join the fields of interlaced video to whole pictures, or keep the combs.
        codec: ``jpeg`` of quality 95, or lossless ``png``.
        partial: keep what could be decoded of a damaged video, or refuse it.
        timeout: seconds after which a video is given up.
        retry_failed: try failed videos again.
        max_failure_rate: share of failed videos above which ``too_many_failed`` is set.
        runner: who runs the workers; ``auto`` is ray where it is installed, else local.
        address: Ray cluster to use; None starts Ray on this machine.
        workers: shards made at a time; None takes all CPUs.
        gpus_per_worker: share of a GPU that each worker asks Ray for when flow runs on cuda.
        cpus_per_worker: CPUs of such a worker.
        allow_mixed_flow: let each node of a cluster use the back end that suits it.
        break_lock: take over from an extract on another host that is gone.
        progress: called with the listing, at the start, and as videos are done.

    Returns:
        What was done: counts of videos, frames and fields, failures by reason.

    Raises:
        ValueError: an option that does not exist, or does not fit the others.
        StinPipeError: nothing to extract, or a run that was made otherwise or is in use.
    """
    values = dict(locals())
    options = ExtractOptions(**_checked(extract_command.extract, values))
    return extract_run(Path(run), Path(videos), options, progress or _ignore)


def train(
    run: PathName,
    stream: Literal["spatial", "temporal"],
    *,
    split: str = "1",
    name: str = "default",
    recipe: str | None = None,
    backbone: str | None = None,
    init: PathName | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    segments: int | None = None,
    aux_weight: float | None = None,
    plain: bool = False,
    no_flip: bool = False,
    val_share: float | None = None,
    accumulate: int | None = None,
    set: Mapping[str, Any] | None = None,
    seed: int | None = None,
    patience: int | None = None,
    more_epochs: int | None = None,
    continue_from: str | None = None,
    device: str = "auto",
    amp: Literal["auto", "off", "bf16", "fp16"] = "auto",
    loader_workers: int | None = None,
    compile: bool = False,
    train_workers: int | str | tuple[int, int] | None = None,
    address: str | None = None,
    progress: Callable[[TrainEvent], None] | None = None,
) -> TrainResult:
    """Train one stream of a run, or resume its training, as `stin-pipe train-spatial` and its twin do.

    Args:
        run: run directory with extracted videos.
        stream: ``spatial`` (RGB frames) or ``temporal`` (optical flow).
        split: the split whose training list is used.
        name: of the training, beside others of the same stream and split.
        recipe: ``tsn-ucf101``, ``tsn-hmdb51`` or ``small``; None chooses by data set. Whatever is None below
            is left to the recipe.
        backbone: ``resnet18``, ``34``, ``50``, ``101``, or ``timm:NAME``.
        init: weights file to start from.
        epochs: length of the training.
        batch_size: videos a step.
        lr: largest learning rate.
        segments: clips of one video in a training sample, K.
        aux_weight: weight of the auxiliary loss; 0 turns it off.
        plain: train without injection, as a stream of a plain two-stream network.
        no_flip: never mirror clips; for labels that tell left from right.
        val_share: share of the training list that is held out to watch the training.
        accumulate: parts in which a batch is run, to save memory.
        set: further settings of the recipe by name, such as ``{"ema_decay": 0.99}``.
        seed: of weights, order and augmentation.
        patience: stop once the held-out loss has not improved for so many validations; the model is the best
            one.
        more_epochs: continue the finished training of this name by so many epochs, with its own settings.
        continue_from: with ``more_epochs``, the training to continue, which stays as it is.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        amp: mixed precision.
        loader_workers: processes that read; None chooses by cores.
        compile: use ``torch.compile``.
        train_workers: processes that share each batch, started by Ray Train: a number, or (least, most).
        address: Ray cluster of the train workers; None is this machine.
        progress: called at the start, after every step, and with every notice.

    Returns:
        Accuracy on the held-out part, steps, and the path of the model (``checkpoint``).

    Raises:
        ValueError: an option, setting or split that does not exist, or does not fit the others.
        StinPipeError: the run or its data do not allow the training, or it fails.
    """
    values = dict(locals())
    if stream not in ("spatial", "temporal"):
        raise ValueError(f"stream must be 'spatial' or 'temporal', got {stream!r}")
    options = TrainOptions(**_checked(train_command.train_spatial, values))
    return train_run(Path(run), stream, options, progress or _ignore)


def evaluate(
    run: PathName,
    *,
    split: str = "1",
    spatial: Sequence[str] = (),
    temporal: Sequence[str] = (),
    name: str | None = None,
    segments: int = 25,
    crops: Literal[1, 5, 10] = 10,
    fusion_weights: Sequence[float] | None = None,
    tune_fusion: bool = False,
    fuse: Literal["before-softmax", "after-softmax"] = "before-softmax",
    aux: float | Literal["auto", "exclude"] = "auto",
    scores: Mapping[str, PathName] | None = None,
    scores_as: Literal["probabilities", "logits"] | None = None,
    amp: Literal["auto", "off", "bf16", "fp16"] = "auto",
    device: str = "auto",
    loader_workers: int | None = None,
    progress: Callable[[EvalEvent], None] | None = None,
) -> Evaluation:
    """Score the test videos with both streams and fuse the scores, as `stin-pipe fuse-eval` does.

    Args:
        run: run directory with one or both streams trained.
        split: the split to evaluate, or ``all`` for every split that is trained.
        spatial: names of trainings of the spatial stream; the mean of several is taken. None named is the
            default one, if it is trained.
        temporal: likewise of the temporal stream.
        name: of the evaluation; None makes one of the names of the trainings.
        segments: clips of a video.
        crops: views of a clip: 1, 5 or 10.
        fusion_weights: of the spatial, the temporal and further streams; None is (1, 1.5).
        tune_fusion: choose the weights on the held-out part of the training list.
        fuse: where the weighted mean is taken.
        aux: share of the auxiliary scores.
        scores: stream -> score file of another program.
        scores_as: what the numbers of ``scores`` are, where they do not tell.
        amp: mixed precision; ``auto`` is bf16 on a GPU that has it.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        loader_workers: processes that read; None chooses by cores.
        progress: called as the scoring goes on, and with every notice.

    Returns:
        The metrics of each split; ``to_json()`` is the content of metrics.json.

    Raises:
        ValueError: an option that does not exist, or does not fit the others.
        StinPipeError: a stream is not trained, the split has no test video, or a score file does not fit.
    """
    values = dict(locals())
    options = EvalOptions(**_checked(fuse_eval_command.fuse_eval, values))
    return evaluate_run(Path(run), options, progress or _ignore, pages=evaluation_pages())


def _checked(command: click.Command, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the command's options with these values, converted and checked as those of its flags.

    Raises:
        ValueError: names the option and what it takes.
    """
    context = click.Context(command, info_name=command.name)
    checked: dict[str, Any] = {}
    for param in command.params:
        name = max(param.opts, key=len).lstrip("-").replace("-", "_")
        if name not in values or name in ("run", "videos"):
            continue
        try:
            checked[str(param.name)] = param.process_value(context, _as_click_takes_it(param, values[name]))
        except click.UsageError as error:
            raise ValueError(f"{name}: {error.message}") from error
    return checked


def _as_click_takes_it(param: click.Parameter, value: Any) -> Any:
    """Return a value of Python in the form that the option's type reads."""
    if param.name == "files" and value is not None:
        return tuple((stream, Path(file)) for stream, file in value.items())
    if isinstance(value, Mapping):
        return tuple(cast("Mapping[str, Any]", value).items())
    if param.multiple and isinstance(value, str):
        return (value,)

    if isinstance(param.type, click.Choice) and value is not None:
        return str(value)
    return value


def _ignore(_event: object) -> None:
    """Take an event that nobody asked for."""
