"""An ablation as a table on the terminal and as a picture: a dot for each seed, a bar at the mean."""

import io
from pathlib import Path

from stin_pipe.stin.results.ablation_table import AblationTable
from stin_pipe.stin.results.numbers import signed
from stin_pipe.stin.shards.publish import publish_bytes
from stin_pipe.workflows.terminal.output import Output


def draw_ablation(table: AblationTable) -> bytes:
    """Return the picture as PNG; a seed has the same colour in all rows."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    num_rows = len(table.rows)
    figure = Figure(figsize=(8, 1.2 + 0.45 * num_rows), layout="constrained")
    axes = figure.add_subplot()
    seeds = sorted({seed for row in table.rows for seed in row.by_seed})
    colours = mpl.colormaps["viridis"]
    for number, row in enumerate(table.rows):
        height = num_rows - 1 - number
        axes.plot([row.mean, row.mean], [height - 0.32, height + 0.32], color="black", linewidth=2)
        for seed, judgement in row.by_seed.items():
            rank = seeds.index(seed)
            shift = 0.0 if len(seeds) == 1 else 0.4 * (rank / (len(seeds) - 1) - 0.5)
            colour = colours(0.9 * rank / max(1, len(seeds) - 1))
            axes.plot(judgement.top1, height + shift, "o", color=colour, markersize=5)
    axes.set_yticks(range(num_rows), [row.variant for row in reversed(table.rows)])
    axes.set_xlim(0, 1)
    axes.set_xlabel("top-1: a dot for each seed, a bar at their mean")
    axes.grid(axis="x", alpha=0.3)
    where = "test" if table.judge == "test" else "held-out training"
    axes.set_title(f"{table.num_judged} {where} videos, split {table.split}", loc="left")
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120)
    return content.getvalue()


def store_picture(output: Output, table: AblationTable, path: Path) -> str | None:
    """Store the picture and return its path; without matplotlib, warn and return None."""
    try:
        publish_bytes(path, draw_ablation(table))
    except ImportError:
        output.warn('no picture: matplotlib is not installed: pip install "stin-pipe[report]"')
        path.unlink(missing_ok=True)  # the picture of an earlier table would not fit this one
        return None
    return str(path)


def show_ablation(output: Output, table: AblationTable) -> None:
    """Print the table of an ablation, with a row for each variant."""

    def number(value: float | None, form: str = ".3f") -> str:
        return "" if value is None else format(value, form)

    rows = []
    for row in table.rows:
        difference = row.difference
        rows.append(
            [
                row.variant,
                str(len(row.by_seed)),
                f"{row.mean:.3f}" + (f" ± {row.std:.3f}" if row.std is not None else ""),
                f"{row.mean_main:.3f}",
                number(row.mean_aux),
                signed(difference.mean, digits=3)
                + (f" ± {difference.std:.3f}" if difference.std is not None else "")
                if difference
                else "(base)",
                f"{difference.num_better} of {difference.num_seeds}" if difference else "",
                number(difference.p_value, ".2f") if difference else "",
            ]
        )
    where = "test videos" if table.judge == "test" else "held-out training videos"
    output.table(
        f"top-1 on {table.num_judged} {where} of split {table.split}, mean ± standard deviation over seeds",
        ["variant", "seeds", "top-1", "main", "aux.", "minus base", "better", "p"],
        rows,
    )
