"""`stin-pipe ablate`: variants of the streams, with several seeds, compared pair by pair."""

import signal
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stin_pipe.workflows.terminal.options import common_options, run_option, usage_errors
from stin_pipe.workflows.terminal.output import Meter, Output
from stin_pipe.workflows.terminal.training_options import require_one_source, settings_option
from stin_pipe.workflows.terminal.types import FILE, FiniteRange, Names

if TYPE_CHECKING:
    from stin_pipe.stin.ablation import AblationStep, AblationTable, Variant
    from stin_pipe.stin.training.config import TrainConfig
    from stin_pipe.stin.training.report import TrainNotice, TrainProgress, TrainStart

VAL_SHARE = 0.2
"""Part of the training list that is held out unless told; more than recipes do, since it is judged on."""

EXAMPLES = """\b
Examples:
  stin-pipe ablate --run runs/mine --recipe small --seeds 3 --val-share 0.25
  stin-pipe ablate --run runs/mine --streams spatial --only plain,loss,inject --seeds 5
  stin-pipe ablate --run runs/mine --variants mine.toml --name mine

\b
A file of variants has a table for each; `stream` says which one, the rest are settings of its recipe:
  [wide]
  stream = "spatial"
  difference_channels = 256
  tap = "layer3"
The first variant of a stream is what its others are compared with.
"""


@click.command(epilog=EXAMPLES)
@run_option()
@click.option("--split", default="1", help="Split to train on.")
@click.option(
    "--streams", type=Names(), default="spatial,temporal", metavar="A,B", help="spatial, temporal or both."
)
@click.option("--only", type=Names(), help="Some of the named variants  [default: all of each stream]")
@click.option("--variants", type=FILE, help="TOML file of variants in place of the named ones.")
@click.option("--seeds", type=click.IntRange(min=1), default=3, help="How many seeds, from 0 on.")
@click.option(
    "--judge",
    type=click.Choice(["held-out", "test"]),
    default="held-out",
    help="Judge on the held-out part of the training list, or on the test list.",
)
@click.option(
    "--name", help="Name of the table: RUN/ablate/NAME.json and .png  [default: ablation, ablation-splitN]"
)
@click.option("--recipe", help="tsn-ucf101, tsn-hmdb51 or small  [default: by data set]")
@click.option("--backbone", help="resnet18, 34, 50, 101, or timm:NAME  [default: the recipe's]")
@click.option("--init", type=FILE, help="Weights to start from, .pth or .safetensors.")
@click.option("--epochs", type=click.IntRange(min=1), help="[default: the recipe's length]")
@click.option("--batch-size", type=click.IntRange(min=1), help="Videos a step  [default: the recipe's]")
@click.option("--no-flip", is_flag=True, help="Never mirror; for data whose label is left or right.")
@click.option(
    "--val-share",
    type=FiniteRange(0, 0.9),
    help="Part of the training list held out to judge on  [default: 0.2]",
)
@settings_option
@click.option("--device", default="auto", help="auto, cpu, cuda or cuda:N.")
@click.option("--amp", type=click.Choice(["auto", "off", "bf16", "fp16"]), default="auto")
@click.option("--loader-workers", type=click.IntRange(min=0), help="Processes that read  [default: by cores]")
@common_options
def ablate(output: Output, run_path: Path, **options: Any) -> None:
    """Train the switches of the streams with several seeds and say what each is worth.

    Each variant is trained in RUN/ablate/VARIANT/seedN (VARIANT/splitS/seedN for other splits than 1) and
    compared with its stream's first one, seed by seed. The test list is looked at only when asked for. The
    same command again resumes; more seeds and variants join what is there.
    """
    from stin_pipe.stin.ablation import run_ablation
    from stin_pipe.stin.device import Runtime
    from stin_pipe.stin.shards.publish import publish_bytes, publish_json
    from stin_pipe.stin.shards.schema import Manifest
    from stin_pipe.stin.train import Interrupted
    from stin_pipe.workflows.commands.train import extraction_of, require_split
    from stin_pipe.workflows.report.ablation_picture import draw_ablation
    from stin_pipe.workflows.run.lock import run_lock
    from stin_pipe.workflows.run.run_dir import open_run, recorded
    from stin_pipe.workflows.terminal.exits import Terminated

    run = open_run(run_path)
    manifest = Manifest.load(run.manifest)
    require_split(manifest, options["split"])
    with usage_errors():
        variants = _variants(manifest.dataset, options)
        name = _table_name(options, variants)
    out_dir = run.path / "ablate"
    out_dir.mkdir(exist_ok=True)
    lock = out_dir / "lock.json"
    settings = {**options, "variants": {item.name: asdict(item.config) for item in variants}}
    with (
        run_lock(lock, activity="ablation", to_break=f"delete {lock}"),
        recorded(run, "ablate", settings),
        usage_errors(),
        output.progress("ablate", options["seeds"] * len(variants), unit="trainings") as meter,
    ):
        watch = _Watch(output, meter)
        try:
            table = run_ablation(
                variants,
                seeds=range(options["seeds"]),
                manifest=manifest,
                extract_dir=run.extract,
                out_dir=out_dir,
                split=options["split"],
                judge=options["judge"],
                runtime=Runtime(
                    device=options["device"], amp=options["amp"], loader_workers=options["loader_workers"]
                ),
                extraction=extraction_of(run),
                on_step=watch.step,
                on_progress=watch.progress,
                on_table=lambda found: publish_json(out_dir / f"{name}.json", found.to_json()),
            )
        except Interrupted as stop:
            raise (Terminated if stop.signum == signal.SIGTERM else KeyboardInterrupt) from stop
    value = {**table.to_json(), "table": str(out_dir / f"{name}.json")}
    picture = out_dir / f"{name}.png"
    publish_json(out_dir / f"{name}.json", table.to_json())
    try:
        publish_bytes(picture, draw_ablation(table))
    except ImportError:
        output.warn('no picture: matplotlib is not installed: pip install "stin-pipe[report]"')
        picture.unlink(missing_ok=True)  # of an earlier table
    value["picture"] = str(picture) if picture.exists() else None
    _show(output, table)
    output.show(f"table: {value['table']}; picture: {value['picture'] or 'none'}")
    output.result(value)


class _Watch:
    """Tells which training is on, and how it goes."""

    def __init__(self, output: Output, meter: Meter) -> None:
        self._output = output
        self._meter = meter
        self._now = ""
        self._done = 0

    def step(self, step: "AblationStep") -> None:
        self._now, self._done = f"{step.variant} seed {step.seed}", step.number - 1
        self._output.say(f"{step.number} of {step.total}: {self._now}")

    def progress(self, event: "TrainStart | TrainProgress | TrainNotice") -> None:
        from stin_pipe.stin.training.report import TrainNotice, TrainProgress

        if isinstance(event, TrainNotice):
            self._output.warn(event.message)
        elif isinstance(event, TrainProgress):
            epoch = f"{self._now}, epoch {event.epoch}/{event.epochs}"
            self._meter.update(self._done, f"{epoch}, loss {event.loss:.3f}")


def _table_name(options: Mapping[str, Any], variants: "Sequence[Variant]") -> str:
    """Return the name of the table, which may be that of no other file beside it."""
    from stin_pipe.stin.ablation import check_file_name

    name: str | None = options["name"]
    if name is None:
        name = "ablation" if options["split"] == "1" else f"ablation-split{options['split']}"
    else:
        check_file_name("--name", name)
    taken = {"lock.json", f"{name}.json", f"{name}.png"}
    if name == "lock":
        raise ValueError("--name: 'lock' is taken by the lock of the ablation; give another name")
    for variant in variants:
        if variant.name in taken:
            raise ValueError(
                f"the variant {variant.name!r} has the name of a file of the ablation; give it another name"
            )
    return name


def _variants(dataset: str, options: dict[str, Any]) -> "list[Variant]":
    from stin_pipe.stin.ablation import NAMED_VARIANTS, Variant, named_variants
    from stin_pipe.stin.training.config import override

    for stream in options["streams"]:
        if stream not in NAMED_VARIANTS:
            raise ValueError(f"--streams must be of {', '.join(NAMED_VARIANTS)}, got {stream!r}")
    if options["variants"] is not None:
        given = _read_variants(options["variants"])
        return [
            Variant(name=name, config=override(_base(stream, dataset, options), **changes))
            for name, (stream, changes) in given.items()
        ]
    only = options["only"] or ()
    known = {name for stream in options["streams"] for name in NAMED_VARIANTS[stream]}
    if unknown := sorted(set(only) - known):
        raise ValueError(f"--only: {unknown[0]!r} is no variant; known: {', '.join(sorted(known))}")
    found: list[Variant] = []
    for stream in options["streams"]:
        names = [name for name in NAMED_VARIANTS[stream] if not only or name in only]
        if names:
            found += named_variants(_base(stream, dataset, options), names)
    return found


def _base(stream: str, dataset: str, options: dict[str, Any]) -> "TrainConfig":
    from stin_pipe.stin.network.backbones import check_backbone_name
    from stin_pipe.stin.training.config import override
    from stin_pipe.stin.training.recipes import resolve_recipe
    from stin_pipe.workflows.commands.train import RECIPE_OF_DATASET

    require_one_source(options)
    settings: dict[str, Any] = {"val_share": VAL_SHARE, **options["settings"]}
    _refuse_seed(settings, "--set")
    check_backbone_name(options["backbone"] or "resnet18")
    name = options["recipe"] or RECIPE_OF_DATASET.get(dataset, "small")
    recipe = resolve_recipe(name, "spatial" if stream == "spatial" else "temporal")
    return override(
        override(recipe, **settings),
        **{key: options[key] for key in ("backbone", "epochs", "batch_size", "val_share")},
        init=str(options["init"].absolute()) if options["init"] else None,
        flip=False if options["no_flip"] else None,
    )


def _refuse_seed(settings: Mapping[str, Any], place: str) -> None:
    if "seed" in settings:
        raise ValueError(f"{place}: seed is no setting here; --seeds N trains with the seeds 0 to N-1")


def _read_variants(path: Path) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return stream and changes of each variant of a TOML file."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"--variants {path}: cannot be read as TOML: {error}") from error
    found = {}
    for name, table in tables.items():
        stream = table.get("stream") if isinstance(table, dict) else None
        if stream not in ("spatial", "temporal"):
            raise ValueError(
                f'--variants {path}: [{name}] needs stream = "spatial" or "temporal", got {stream!r}'
            )
        changes = {key: value for key, value in table.items() if key != "stream"}
        _refuse_seed(changes, f"--variants {path}: [{name}]")
        found[name] = (stream, {k: tuple(v) if isinstance(v, list) else v for k, v in changes.items()})
    if not found:
        raise ValueError(f"--variants {path}: has no table")
    return found


def _show(output: Output, table: "AblationTable") -> None:
    def number(value: float | None, form: str = ".3f") -> str:
        return "" if value is None else format(value, form)

    rows = []
    for row in table.rows:
        found = row.difference
        rows.append(
            [
                row.variant,
                str(len(row.by_seed)),
                f"{row.mean:.3f}" + (f" ± {row.std:.3f}" if row.std is not None else ""),
                f"{row.mean_main:.3f}",
                number(row.mean_aux),
                number(found.mean, "+.3f") + (f" ± {found.std:.3f}" if found.std is not None else "")
                if found
                else "(base)",
                f"{found.num_better} of {found.num_seeds}" if found else "",
                number(found.p_value, ".2f") if found else "",
            ]
        )
    where = "test videos" if table.judge == "test" else "held-out training videos"
    output.table(
        f"top-1 on {table.num_judged} {where} of split {table.split}, mean ± standard deviation over seeds",
        ["variant", "seeds", "top-1", "main", "aux.", "minus base", "better", "p"],
        rows,
    )
