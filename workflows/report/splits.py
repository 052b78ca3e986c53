"""The page of all splits: their mean, each of them, and a link to the report of each."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from stin_pipe.stin.results.intervals import Interval
from stin_pipe.workflows.report.comparison_text import shows_top5
from stin_pipe.workflows.report.page import render_page


@dataclass(frozen=True, kw_only=True)
class SplitRow:
    """One split: its videos, and top-1 with its interval by stream."""

    name: str
    num_videos: int
    num_listed: int
    top1: Mapping[str, float]
    intervals: Mapping[str, Interval]


def render_splits(run_name: str, value: Mapping[str, Any]) -> str:
    """Return the page.

    Args:
        run_name: of the run.
        value: the JSON object of all splits, as fuse-eval/all.json holds it.
    """
    streams = list(dict.fromkeys((value["answer"], *value["streams"])))

    rows = []
    for item in value["splits"]:
        edges = {stream: item["intervals"][stream]["top1"] for stream in streams}
        rows.append(
            SplitRow(
                name=item["split"],
                num_videos=item["num_videos"],
                num_listed=item["num_listed"],
                top1={stream: item[stream]["top1"] for stream in streams},
                intervals={stream: Interval(low=low, high=high) for stream, (low, high) in edges.items()},
            )
        )

    # The splits of one run mostly differ from the papers in the same ways: each is listed once.
    differences = [text for item in value["splits"] for text in item["literature"]["differences"]]
    return render_page(
        "splits.html.jinja",
        run_name=run_name,
        value=value,
        streams=streams,
        answer=streams[0],
        shows_top5=shows_top5(value["splits"][0]["num_classes"]),
        rows=rows,
        differences=list(dict.fromkeys(differences)),
        version=metadata.version("stin-pipe"),
    )
