"""What fuse-eval shows on the terminal: its progress, one split, and the mean of all."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from stin_pipe.stin.evaluation import EvalEvent, EvalNotice
from stin_pipe.stin.results.split_mean import METRICS
from stin_pipe.stin.results.split_result import SplitResult
from stin_pipe.workflows.report.comparison_text import difference_text
from stin_pipe.workflows.run.evaluation import Evaluation
from stin_pipe.workflows.terminal.output import Output


@contextmanager
def shown_events(output: Output) -> Iterator[Callable[[EvalEvent], None]]:
    """Show the events of an evaluation: a bar for each stream that is scored, and every notice."""
    with ExitStack() as bars:
        meters = {}

        def show(event: EvalEvent) -> None:
            if isinstance(event, EvalNotice):
                (output.warn if event.level == "warning" else output.say)(event.message)
                return
            key = event.stream, event.videos
            if key not in meters:
                label = f"score {event.stream}" + (" (held out)" if event.videos == "held out" else "")
                meters[key] = bars.enter_context(output.progress(label, event.total, unit="videos"))
            meters[key].update(event.done)
            if event.done == event.total:
                bars.close()  # the next stream has a bar of its own
                del meters[key]

        yield show


def show_evaluation(output: Output, evaluation: Evaluation) -> None:
    """Print the results of every split, their mean if all were evaluated, and the JSON object."""
    for result in evaluation.splits:
        show_result(output, result)
    if evaluation.mean is not None:
        show_mean(output, evaluation.mean)
    output.result(evaluation.to_json())


def show_result(output: Output, result: SplitResult) -> None:
    """Print the table of one split, the paired differences, and published numbers where there are any."""
    metrics = result.metrics
    output.table(
        f"split {result.split}: {metrics['num_videos']} of {metrics['num_listed']} test videos scored",
        ["stream", "top-1", "95 % interval", "top-5", "mean class", "top-1 of listed"],
        [
            [
                name,
                f"{metrics[name]['top1']:.3f}",
                "{:.3f} to {:.3f}".format(*metrics["intervals"][name]["top1"]),
                *(f"{metrics[name][column]:.3f}" for column in METRICS[1:]),
            ]
            for name in result.analysis.accuracies
        ],
    )
    for item in result.analysis.comparisons[: len(result.streams)]:  # the fusion against each stream
        output.show(difference_text(item))

    if result.literature.rows:
        output.table(
            "published results on the official lists (the report says how their protocols differ)",
            ["", "spatial", "temporal", "fused"],
            [
                [f"{row.method}, {row.scope}", *map(_share, (row.spatial, row.temporal, row.fused))]
                for row in result.literature.rows
            ],
        )

    if result.tuning is not None:
        output.show(
            f"the temporal stream's share of {result.tuning.temporal_share:g} was chosen on "
            f"{result.tuning.num_videos} held-out training videos (top-1 on them: {result.tuning.top1:.3f})"
        )
    weights = ":".join(f"{weight:g}" for weight in metrics["fusion_weights"])
    output.show(f"fused {weights} {metrics['fusion'].replace('_', ' ')}; report: {metrics['report']}")


def show_mean(output: Output, mean: Mapping[str, Any]) -> None:
    """Print mean and spread over the splits, by the content of all.json."""
    spread = mean["spread"]
    output.table(
        f"mean of {len(mean['splits'])} splits ± standard deviation between splits",
        ["stream", "top-1", "top-5", "mean class", "top-1 of listed"],
        [
            [stream, *(_spread_text(mean[stream][name], spread[stream][name]) for name in METRICS)]
            for stream in spread
        ],
    )
    output.show(f"report of all splits: {mean['report']}")


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _spread_text(mean: float, spread: float | None) -> str:
    return f"{mean:.3f}" if spread is None else f"{mean:.3f} ± {spread:.3f}"
