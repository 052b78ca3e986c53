"""What fuse-eval shows on the terminal: its progress, one split, and the mean of all."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from stin_pipe.stin.evaluation import EvalEvent, EvalNotice, PageProgress
from stin_pipe.stin.results.numbers import percent
from stin_pipe.stin.results.split_mean import METRICS
from stin_pipe.stin.results.split_result import SplitResult
from stin_pipe.workflows.report.comparison_text import METRIC_NAMES, show_differences, shows_top5
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
            if isinstance(event, PageProgress):
                key, label = ("page", ""), "draw the report"
            else:
                key = event.stream, event.videos
                label = f"score {event.stream}" + (" (held out)" if event.videos == "held out" else "")
            if key not in meters:
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
    """Print the verdict on one split, its table, the paired differences, and published numbers if any."""
    metrics, verdict = result.metrics, result.verdict
    output.show(f"split {result.split}: {verdict.sentence}.", tone=verdict.tone.value)
    if verdict.next_step:
        output.show(f"{verdict.next_step}.")

    columns = [
        "top1",
        *(["top5"] if shows_top5(metrics["num_classes"]) else []),
        "mean_class",
        "top1_of_listed",
    ]
    output.table(
        f"{metrics['num_videos']} of {metrics['num_listed']} test videos scored, {metrics['num_classes']} "
        f"classes, {verdict.baseline.text}; accuracies in per cent",
        ["stream", "top-1", "95 % interval", *(METRIC_NAMES[name] for name in columns[1:])],
        [
            [
                name,
                percent(metrics[name]["top1"]),
                " to ".join(map(percent, metrics["intervals"][name]["top1"])),
                *(percent(metrics[name][column]) for column in columns[1:]),
            ]
            for name in result.analysis.accuracies
        ],
    )
    if result.fused is not None:
        show_differences(output, result.analysis.comparisons[: len(result.streams)])  # against each stream

    if result.literature.rows:
        output.table(
            "published top-1 in per cent on the official lists (the report says how their protocols differ)",
            ["", "spatial", "temporal", "fused"],
            [
                [f"{row.method}, {row.scope}", *map(percent, (row.spatial, row.temporal, row.fused))]
                for row in result.literature.rows
            ],
        )

    if result.tuning is not None:
        output.show(
            f"the temporal stream's share of {result.tuning.temporal_share:g} was chosen on "
            f"{result.tuning.num_videos} held-out training videos (top-1 on them: "
            f"{percent(result.tuning.top1)} %)"
        )
    how = "one stream, not fused"
    if result.fused is not None:
        weights = ":".join(f"{weight:g}" for weight in result.fused.weights)
        how = f"fused {weights} {result.fused.when.replace('_', ' ')}"
    output.show(f"{how}; report: {metrics['report']}")


def show_mean(output: Output, mean: Mapping[str, Any]) -> None:
    """Print mean and spread over the splits, by the content of all.json."""
    spread = mean["spread"]
    output.show(f"all splits: {mean['verdict']['sentence']}.")
    output.table(
        f"mean of {len(mean['splits'])} splits ± standard deviation between splits, in per cent",
        ["stream", *(METRIC_NAMES[name] for name in METRICS)],
        [
            [stream, *(_spread_text(mean[stream][name], spread[stream][name]) for name in METRICS)]
            for stream in spread
        ],
    )
    output.show(f"report of all splits: {mean['report']}")


def _spread_text(mean: float, spread: float | None) -> str:
    return percent(mean) if spread is None else f"{percent(mean)} ± {percent(spread)}"
