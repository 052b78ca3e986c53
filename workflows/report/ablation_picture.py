"""An ablation as one picture: a dot for each seed, a bar at the mean."""

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stin_pipe.stin.ablation import AblationTable


def draw_ablation(table: "AblationTable") -> bytes:
    """Return the picture as PNG; dots of one seed have one colour in all rows."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    num_rows = len(table.rows)
    figure = Figure(figsize=(8, 1.2 + 0.45 * num_rows), layout="constrained")
    axes = figure.add_subplot()
    seeds = sorted({seed for row in table.rows for seed in row.by_seed})
    colours = mpl.colormaps["viridis"]
    for place, row in enumerate(table.rows):
        height = num_rows - 1 - place
        axes.plot([row.mean, row.mean], [height - 0.32, height + 0.32], color="black", linewidth=2)
        for seed, found in row.by_seed.items():
            rank = seeds.index(seed)
            shift = 0.0 if len(seeds) == 1 else 0.4 * (rank / (len(seeds) - 1) - 0.5)
            colour = colours(0.9 * rank / max(1, len(seeds) - 1))
            axes.plot(found.top1, height + shift, "o", color=colour, markersize=5)
    axes.set_yticks(range(num_rows), [row.variant for row in reversed(table.rows)])
    axes.set_xlim(0, 1)
    axes.set_xlabel("top-1: a dot each seed, the bar their mean")
    axes.grid(axis="x", alpha=0.3)
    where = "test" if table.judge == "test" else "held-out training"
    axes.set_title(f"{table.num_judged} {where} videos, split {table.split}", loc="left")
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120)
    return content.getvalue()
