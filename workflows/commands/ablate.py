"""`stin-pipe ablate`: variants of the streams, with several seeds, compared pair by pair."""

from pathlib import Path
from typing import Any

import click

from stin_pipe.stin.training.report import AblationStep, TrainEvent, TrainNotice, TrainProgress
from stin_pipe.workflows.terminal.options import common_options, run_option, usage_errors
from stin_pipe.workflows.terminal.output import Meter, Output
from stin_pipe.workflows.terminal.training_options import settings_option
from stin_pipe.workflows.terminal.training_report import ended_by_signal
from stin_pipe.workflows.terminal.types import FILE, FiniteRange, Names, WholeNumber

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
@click.option("--seeds", type=WholeNumber(min=1), default=3, help="How many seeds, from 0 on.")
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
@click.option("--epochs", type=WholeNumber(min=1), help="[default: the recipe's length]")
@click.option("--batch-size", type=WholeNumber(min=1), help="Videos a step  [default: the recipe's]")
@click.option("--no-flip", is_flag=True, help="Never mirror; for data whose label is left or right.")
@click.option(
    "--val-share",
    type=FiniteRange(0, 0.9),
    help="Part of the training list held out to judge on  [default: 0.2]",
)
@settings_option
@click.option("--device", default="auto", help="auto, cpu, cuda or cuda:N.")
@click.option("--amp", type=click.Choice(["auto", "off", "bf16", "fp16"]), default="auto")
@click.option("--loader-workers", type=WholeNumber(min=0), help="Processes that read  [default: by cores]")
@common_options
def ablate(output: Output, run_path: Path, **values: Any) -> None:
    """Train the switches of the streams with several seeds and say what each is worth.

    Each variant is trained in RUN/ablate/VARIANT/seedN (VARIANT/splitS/seedN for other splits than 1) and
    compared with its stream's first one, seed by seed. The test list is looked at only when asked for. The
    same command again resumes; more seeds and variants join what is there.
    """
    from stin_pipe.workflows.report.ablation import show_ablation, store_picture
    from stin_pipe.workflows.run.ablation import AblateOptions, ablate_run

    with usage_errors(), output.progress("ablate", 1, unit="trainings") as meter, ended_by_signal():
        watch = _Watch(output, meter)
        stored = ablate_run(run_path, AblateOptions(**values), watch.show, handle_signals=True)

    picture = store_picture(output, stored.table, stored.path.with_suffix(".png"))
    show_ablation(output, stored.table)
    output.show(f"table: {stored.path}; picture: {picture or 'none'}")
    output.result({**stored.table.to_json(), "table": str(stored.path), "picture": picture})


class _Watch:
    """Shows which training runs, and how it goes."""

    def __init__(self, output: Output, meter: Meter) -> None:
        self._output = output
        self._meter = meter
        self._training = ""
        self._num_done = 0

    def show(self, event: AblationStep | TrainEvent) -> None:
        match event:
            case AblationStep():
                self._training, self._num_done = f"{event.variant} seed {event.seed}", event.number - 1
                self._meter.total = event.total
                self._output.say(f"{event.number} of {event.total}: {self._training}")
            case TrainNotice():
                self._output.warn(event.message)
            case TrainProgress():
                epoch = f"{self._training}, epoch {event.epoch}/{event.epochs}"
                self._meter.update(self._num_done, f"{epoch}, loss {event.loss:.3f}")
            case _:  # a start says nothing that the line of the training does not
                pass
