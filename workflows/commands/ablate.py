"""`stin-pipe ablate`: compare variants of the streams over several seeds."""

from pathlib import Path
from typing import Any

import click

from stin_pipe.stin.training.report import AblationStep, TrainEvent, TrainNotice, TrainProgress
from stin_pipe.workflows.terminal.options import common_options, run_option, usage_errors
from stin_pipe.workflows.terminal.output import Meter, Output
from stin_pipe.workflows.terminal.training_options import recipe_options, runtime_options, settings_option
from stin_pipe.workflows.terminal.training_report import ended_by_signal
from stin_pipe.workflows.terminal.types import FILE, FiniteRange, Names, WholeNumber

EXAMPLES = """\b
Examples:
  stin-pipe ablate --run runs/mine --recipe small --seeds 3 --val-share 0.25
  stin-pipe ablate --run runs/mine --streams spatial --only plain,loss,inject --seeds 5
  stin-pipe ablate --run runs/mine --variants mine.toml --name mine

\b
A file of variants has a table for each: `stream`, and settings of its recipe:
  [wide]
  stream = "spatial"
  difference_channels = 256
  tap = "layer3"
The first variant of a stream is the base of the others.
"""


@click.command(epilog=EXAMPLES)
@run_option()
@click.option("--split", default="1", help="Split to train on.")
@click.option(
    "--streams", type=Names(), default="spatial,temporal", metavar="A,B", help="spatial, temporal or both."
)
@click.option("--only", type=Names(), help="Only these of the named variants  [default: all of each stream]")
@click.option("--variants", type=FILE, help="TOML file with variants, in place of the named ones.")
@click.option("--seeds", type=WholeNumber(min=1), default=3, help="Number of seeds, from 0 on.")
@click.option(
    "--judge",
    type=click.Choice(["held-out", "test"]),
    default="held-out",
    help="Judge on the held-out part of the training list, or on the test list.",
)
@click.option(
    "--name", help="Name of the table: RUN/ablate/NAME.json and .png  [default: ablation, ablation-splitN]"
)
@recipe_options
@click.option(
    "--val-share",
    type=FiniteRange(0, 0.9),
    help="Share of the training list held out to judge on  [default: 0.2]",
)
@settings_option
@runtime_options
@common_options
def ablate(output: Output, run_path: Path, **values: Any) -> None:
    """Train variants of the streams with several seeds, and measure what each part of a stream is worth.

    Each variant is trained in RUN/ablate/VARIANT/seedN (VARIANT/splitS/seedN for splits other than 1) and
    compared with the first one of its stream, seed by seed. The test list is used only with --judge test. The
    same command resumes; further seeds and variants are added to the table.
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
