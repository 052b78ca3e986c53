"""`stin-pipe fuse-eval`: score the test list with both streams, fuse the scores, judge them."""

from pathlib import Path
from typing import Any

import click

from stin_pipe.workflows.terminal.options import common_options, run_option, usage_errors
from stin_pipe.workflows.terminal.output import Output
from stin_pipe.workflows.terminal.types import AuxShare, Numbers, StreamFile, WholeNumber

EXAMPLES = """\b
Examples:
  stin-pipe fuse-eval --run runs/mine
  stin-pipe fuse-eval --run runs/ucf --split all
  stin-pipe fuse-eval --run runs/mine --tune-fusion                       # weights from held-out videos
  stin-pipe fuse-eval --run runs/mine --segments 10 --crops 1 --fusion-weights 1,2     # quick look
  stin-pipe fuse-eval --run runs/mine --spatial seed0 --spatial seed1 --spatial seed2 --name three-seeds
  stin-pipe fuse-eval --run runs/mine --scores pose=pose.csv --fusion-weights 1,1.5,0.5
"""


def _by_stream(
    _ctx: click.Context, _param: click.Parameter, value: tuple[tuple[str, Path], ...]
) -> dict[str, Path]:
    if len(dict(value)) < len(value):
        raise click.UsageError("--scores: a stream is named more than once")
    return dict(value)


@click.command("fuse-eval", epilog=EXAMPLES)
@run_option()
@click.option(
    "--split", default="1", help="Split to evaluate, or `all` for every split whose streams are trained."
)
@click.option(
    "--spatial",
    multiple=True,
    metavar="NAME",
    help="Training of the spatial stream; repeat it for an ensemble, the mean of several  [default: default]",
)
@click.option(
    "--temporal",
    multiple=True,
    metavar="NAME",
    help="Training of the temporal stream; repeatable likewise  [default: default]",
)
@click.option(
    "--name",
    help="Name of the evaluation, which has a folder of its own  [default: from the names of the trainings]",
)
@click.option("--segments", type=WholeNumber(min=1), default=25, help="Clips of a video.")
@click.option(
    "--crops",
    type=click.Choice(["1", "5", "10"]),
    default="10",
    callback=lambda ctx, param, value: int(value),
    help="Views of a clip: 1 is the centre, 5 adds the corners, 10 mirrors them too.",
)
@click.option(
    "--fusion-weights",
    type=Numbers(),
    metavar="RGB,FLOW[,...]",
    help="Weights of the spatial and the temporal stream, then of further ones in the order of --scores.  "
    "[default: 1,1.5]",
)
@click.option(
    "--tune-fusion",
    is_flag=True,
    help="Choose the weights on the held-out part of the training list, never on the test list.",
)
@click.option(
    "--fuse",
    "when",
    type=click.Choice(["before-softmax", "after-softmax"]),
    default="before-softmax",
    callback=lambda ctx, param, value: value.replace("-", "_"),
    help="Average logits (before) or probabilities (after).",
)
@click.option(
    "--aux",
    type=AuxShare(),
    default="auto",
    help="Auxiliary scores: as the models were trained, left out, or added with this weight.",
)
@click.option(
    "--scores",
    "files",
    type=StreamFile(),
    multiple=True,
    callback=_by_stream,
    help="Scores of another program for spatial, temporal or a further stream (.npz, .json, .csv); "
    "repeatable.",
)
@click.option(
    "--scores-as",
    type=click.Choice(["probabilities", "logits"]),
    help="What the numbers of --scores are, where they do not tell  [default: such files are refused]",
)
@click.option(
    "--amp",
    type=click.Choice(["auto", "off", "bf16", "fp16"]),
    default="auto",
    help="Mixed precision; auto is bf16 on a GPU that has it.",
)
@click.option("--device", default="auto", help="auto, cpu, cuda or cuda:N.")
@click.option("--loader-workers", type=WholeNumber(min=0), help="Processes that read  [default: by cores]")
@common_options
def fuse_eval(output: Output, run_path: Path, **values: Any) -> None:
    """Score the test videos with both streams, fuse the scores, and write metrics.json and report.html.

    If only one stream is trained, it is evaluated alone. Trainings of other names than the default one are
    given by --spatial and --temporal (those of ablations as ablate/VARIANT/seedN); each is scored once,
    whatever evaluations it takes part in. An ensemble takes the mean of its members' logits, or of their
    probabilities with --fuse after-softmax, before the streams are fused.

    Fusion weights and protocol are fixed beforehand, or chosen on held-out training videos (--tune-fusion);
    nothing is ever tuned on the test list. top1 is over the scored videos; top1_of_listed also counts the
    videos that could not be extracted, as wrong. If scoring is killed, the same command goes on at the next
    video.

    \b
    A file of --scores covers exactly the videos of the test list:
      .csv   a header id,label,<class>,<class>,... and one line per video (label is optional)
      .npz   arrays ids, scores (videos x classes), and optionally labels and classes
      .json  an object with the same keys
    Rows in [0, 1] that sum to 1 within their written digits are probabilities; other rows in [0, 1], and
    percentages, need --scores-as; all else is taken as logits. Pickled files are refused.
    """
    from stin_pipe.workflows.report.render import evaluation_pages
    from stin_pipe.workflows.report.text import show_evaluation, shown_events
    from stin_pipe.workflows.run.evaluation import EvalOptions, evaluate_run

    options = EvalOptions(**values)
    with usage_errors(), shown_events(output) as show:
        evaluation = evaluate_run(run_path, options, show, pages=evaluation_pages())
    show_evaluation(output, evaluation)
