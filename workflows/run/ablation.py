"""An ablation of a run: variants by name or from a file, trained and compared, locked and recorded."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from stin_pipe.stin.ablation import (
    NAMED_VARIANTS,
    AblationStep,
    Variant,
    check_file_name,
    named_variants,
    run_ablation,
)
from stin_pipe.stin.device import Amp, Runtime
from stin_pipe.stin.network.config import StreamName
from stin_pipe.stin.results.ablation_table import AblationTable, Judge
from stin_pipe.stin.shards.bounded import FileKind, UnreadableFileError, read_toml
from stin_pipe.stin.shards.errors import ArgumentError
from stin_pipe.stin.shards.names import make_inside
from stin_pipe.stin.shards.publish import publish_json
from stin_pipe.stin.shards.schema import Manifest
from stin_pipe.stin.training.config import TrainConfig, override
from stin_pipe.stin.training.report import TrainEvent
from stin_pipe.workflows.run.lock import run_lock
from stin_pipe.workflows.run.run_dir import open_run, recorded
from stin_pipe.workflows.run.training import TrainOptions, extraction_of, require_split, training_config

_VARIANTS = FileKind(name="variants", max_bytes=1 << 20)
VAL_SHARE = 0.2
"""Default share of the training list that is held out; larger than the recipes', since it is judged on."""


@dataclass(frozen=True, kw_only=True)
class AblateOptions:
    """The options of an ablation; those not listed here are as in ``TrainOptions``.

    Attributes:
        streams: which streams' variants are trained.
        only: names of the variants; None takes all of each stream.
        variants: TOML file of variants in place of the named ones.
        seeds: number of seeds, counted from 0.
        judge: compare on the held-out part of the training list, or on the test list.
        name: of the table's files; None is ``ablation``, or ``ablation-split<N>``.
        val_share: share of the training list that is held out; None is 0.2.
    """

    split: str = "1"
    streams: tuple[str, ...] = ("spatial", "temporal")
    only: tuple[str, ...] | None = None
    variants: Path | None = None
    seeds: int = 3
    judge: Judge = "held-out"
    name: str | None = None
    recipe: str | None = None
    backbone: str | None = None
    init: Path | None = None
    epochs: int | None = None
    batch_size: int | None = None
    no_flip: bool = False
    val_share: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    device: str = "auto"
    amp: Amp = "auto"
    loader_workers: int | None = None


@dataclass(frozen=True, kw_only=True)
class StoredTable:
    """The table of an ablation and where it is stored."""

    table: AblationTable
    path: Path


def ablate_run(
    run_path: Path,
    options: AblateOptions | None = None,
    on_event: Callable[[AblationStep | TrainEvent], None] = lambda _event: None,
    *,
    handle_signals: bool = False,
) -> StoredTable:
    """Train the variants with every seed in ``RUN/ablate`` and store the table of their differences.

    Args:
        run_path: the run directory, with extracted videos.
        options: see ``AblateOptions``.
        on_event: called before each training, and with the events of each.
        handle_signals: see ``train_run``.

    Raises:
        ValueError: for an option, variant or setting that does not exist or does not fit the others.
        StinPipeError: if the run or its data do not allow it, or a training fails.
        Interrupted: after a signal, if these are handled.
    """
    options = options or AblateOptions()
    run = open_run(run_path)
    manifest = Manifest.load(run.manifest)
    require_split(manifest, options.split)
    variants = chosen_variants(manifest.dataset, options)
    name = table_name(options, variants)

    out_dir = run.path / "ablate"
    make_inside(out_dir, run.path)
    lock = out_dir / "lock.json"
    path = out_dir / f"{name}.json"
    settings = {**asdict(options), "variants": {item.name: asdict(item.config) for item in variants}}
    with (
        run_lock(lock, activity="ablation", to_break=f"delete {lock}"),
        recorded(run, "ablate", settings),
    ):
        table = run_ablation(
            variants,
            seeds=range(options.seeds),
            manifest=manifest,
            extract_dir=run.extract,
            out_dir=out_dir,
            split=options.split,
            judge=options.judge,
            runtime=Runtime(device=options.device, amp=options.amp, loader_workers=options.loader_workers),
            extraction=extraction_of(run),
            on_event=on_event,
            on_table=lambda table: publish_json(path, table.to_json()),
            handle_signals=handle_signals,
        )
    publish_json(path, table.to_json())
    return StoredTable(table=table, path=path)


def table_name(options: AblateOptions, variants: Sequence[Variant]) -> str:
    """Return the name of the table, which must not be that of another file beside it.

    Raises:
        ValueError: if it is, or is not fit for a file.
    """
    name = options.name
    if name is None:
        name = "ablation" if options.split == "1" else f"ablation-split{options.split}"
    else:
        check_file_name("--name", name)
    if name == "lock":
        raise ArgumentError("--name: 'lock' is taken by the lock of the ablation; give another name", "name")
    for variant in variants:
        if variant.name in ("lock.json", f"{name}.json", f"{name}.png"):
            raise ValueError(
                f"the variant {variant.name!r} has the name of a file of the ablation; give it another name"
            )
    return name


def chosen_variants(dataset: str, options: AblateOptions) -> list[Variant]:
    """Return the variants that the options name, the first of each stream its base.

    Raises:
        ValueError: for a stream, variant or setting that does not exist; for a file that cannot be read.
    """
    streams: list[StreamName] = [_stream(name) for name in options.streams]
    if options.variants is not None:
        return [
            Variant(name=name, config=override(_base(stream, dataset, options), **changes))
            for name, (stream, changes) in _read_variants(options.variants).items()
        ]

    only = options.only or ()
    names = {name for stream in streams for name in NAMED_VARIANTS[stream]}
    if unknown := sorted(set(only) - names):
        known = ", ".join(sorted(names))
        raise ArgumentError(f"--only: {unknown[0]!r} is not a variant; known: {known}", "only")
    variants: list[Variant] = []
    for stream in streams:
        own = [name for name in NAMED_VARIANTS[stream] if not only or name in only]
        if own:
            variants += named_variants(_base(stream, dataset, options), own)
    return variants


def _stream(name: str) -> StreamName:
    for stream in NAMED_VARIANTS:
        if name == stream:
            return stream
    raise ArgumentError(f"--streams must be of {', '.join(NAMED_VARIANTS)}, got {name!r}", "streams")


def _base(stream: StreamName, dataset: str, options: AblateOptions) -> TrainConfig:
    """Return the configuration that the variants of a stream change."""
    _refuse_seed(options.settings, "--set")
    val_share = options.val_share
    if val_share is None and "val_share" not in options.settings:
        val_share = VAL_SHARE
    training = TrainOptions(
        recipe=options.recipe,
        backbone=options.backbone,
        init=options.init,
        epochs=options.epochs,
        batch_size=options.batch_size,
        no_flip=options.no_flip,
        val_share=val_share,
        settings=options.settings,
    )
    return training_config(stream, dataset, training)


def _refuse_seed(settings: Mapping[str, Any], place: str) -> None:
    if "seed" in settings:
        raise ValueError(
            f"{place}: an ablation sets the seeds itself; give --seeds N to train with seeds 0 to N-1"
        )


def _read_variants(path: Path) -> dict[str, tuple[StreamName, dict[str, Any]]]:
    """Return stream and changes of each variant of a TOML file."""
    try:
        tables = read_toml(path, _VARIANTS)
    except FileNotFoundError as error:
        raise ValueError(f"--variants {path}: does not exist") from error
    except UnreadableFileError as error:
        raise ValueError(f"--variants {path}: cannot be read ({error.reason})") from error
    variants: dict[str, tuple[StreamName, dict[str, Any]]] = {}
    for name, table in tables.items():
        stream = table.get("stream") if isinstance(table, dict) else None
        if stream not in tuple(NAMED_VARIANTS):  # which also may be a list
            raise ValueError(
                f'--variants {path}: [{name}] needs stream = "spatial" or "temporal", got {stream!r}'
            )
        changes = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in table.items()
            if key != "stream"
        }
        _refuse_seed(changes, f"--variants {path}: [{name}]")
        variants[name] = (stream, changes)
    if not variants:
        raise ValueError(f"--variants {path}: has no table")
    return variants
