"""One of the results that `compare` puts side by side, read from a run or a score file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stin_pipe.stin.results.stored import read_metrics

if TYPE_CHECKING:
    from stin_pipe.stin.results.side_by_side import Contender, SideBySide


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One of the results that are compared.

    Attributes:
        contender: its name and scores.
        path: run directory or score file.
        metrics: its metrics.json; empty for a score file.
        recordings: video id -> recording, where its run knows.
    """

    contender: "Contender"
    path: Path
    metrics: dict[str, Any]
    recordings: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class RunComparison:
    """What `compare` found.

    Attributes:
        split: the runs' split.
        subjects: in the order given; the first is what the others are compared with.
        found: the numbers.
        protocol_differences: where the runs were evaluated differently, in words.
    """

    split: str
    subjects: tuple[Subject, ...]
    found: "SideBySide"
    protocol_differences: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "split": self.split,
            "subjects": [
                {
                    "name": item.contender.name,
                    "path": str(item.path),
                    "num_videos": len(next(iter(item.contender.streams.values())).ids),
                    "num_left_out": self.found.num_left_out[item.contender.name],
                    "how_made": item.metrics.get("how_made", []),
                }
                for item in self.subjects
            ],
            "num_common": self.found.num_common,
            "protocol_differences": list(self.protocol_differences),
            "tables": [table.to_json() for table in self.found.tables],
        }


def read_subject(path: Path, name: str, split: str) -> Subject:
    """Read a run's evaluation of a split, or a score file.

    Raises:
        StinPipeError: it is not there, not evaluated, damaged, or not of one evaluation.
    """
    from stin_pipe.stin.results.foreign_scores import read_labelled_scores
    from stin_pipe.stin.results.side_by_side import Contender
    from stin_pipe.stin.results.split_result import recordings_of
    from stin_pipe.stin.scoring.scores import Scores
    from stin_pipe.stin.shards.errors import StinPipeError
    from stin_pipe.stin.shards.schema import Manifest
    from stin_pipe.workflows.run.run_dir import open_run

    if not path.exists():
        raise StinPipeError(f"{path}: no such run or score file; give another path")
    if not path.is_dir():
        scores = read_labelled_scores(path)
        return Subject(
            contender=Contender(name=name, streams={"scores": scores}), path=path, metrics={}, recordings={}
        )
    if not (path / "run.json").exists():
        raise StinPipeError(
            f"{path}: is a folder without run.json, so no run; give a run directory or a score file"
        )
    run = open_run(path)
    folder = run.fusion(split)
    again = f"`stin-pipe fuse-eval --run {run.path} --split {split}`"
    if not (folder / "metrics.json").exists():
        raise StinPipeError(f"{run.path}: split {split} of this run is not evaluated; run {again} first")
    metrics = read_metrics(folder)
    if not metrics:
        raise StinPipeError(f"{folder / 'metrics.json'}: is damaged; run {again} again")
    shares = metrics["protocol"]["aux"]  # streams that files gave are not in it
    for stream in _of_another_evaluation(folder, metrics):
        raise StinPipeError(
            f"{folder / f'{stream}.npz'}: is not of the evaluation that metrics.json tells of, which another "
            f"is replacing or has begun to; wait for it, or run {again} again"
        )
    streams = {"fused": Scores.load(folder / "fused.npz")}
    streams |= {name: Scores.load(folder / f"{name}.npz").with_aux(share) for name, share in shares.items()}
    return Subject(
        contender=Contender(name=name, streams=streams),
        path=run.path,
        metrics=metrics,
        recordings=recordings_of(Manifest.load(run.manifest)),
    )


def _of_another_evaluation(folder: Path, metrics: Mapping[str, Any]) -> list[str]:
    """Return the streams whose score files are not those that the metrics were counted from."""
    from stin_pipe.workflows.run.score_streams import score_file_digests

    known = metrics.get("score_files", {})  # older evaluations do not say
    there = [stream for stream in known if (folder / f"{stream}.npz").exists()]
    found = score_file_digests(folder, there)
    return [stream for stream in there if found[stream] != known[stream]]


def with_one_stream(item: Subject) -> Subject:
    """Call a run's fusion `scores`, as a file's only stream is called."""
    from stin_pipe.stin.results.side_by_side import Contender

    if not item.metrics:
        return item
    contender = Contender(name=item.contender.name, streams={"scores": item.contender.streams["fused"]})
    return Subject(contender=contender, path=item.path, metrics=item.metrics, recordings=item.recordings)
