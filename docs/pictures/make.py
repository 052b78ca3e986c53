"""Make the README's pictures from a run of the demo, so that they show no foreign data.

    stin-pipe demo --run runs/demo && python docs/pictures/make.py runs/demo

`overlay.gif` is the overlay of one test video; `report-light.png` and `report-dark.png` are the top of the
report, taken with the Chromium that the tests use.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from stin_pipe.pipeline.decoding.ffmpeg import find_ffmpeg
from stin_pipe.workflows.prediction.model import load_model

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from tests.browser import Browser, find_chromium  # noqa: E402 - it lies beside the package, not in it

VIDEO = Path("green-left") / "v_green-left_13.avi"
"""A test video, which no training has seen."""
GIF_WIDTH = 640
REPORT_SIZE = (1080, 860)


def make_gif(run: Path, out: Path) -> None:
    """Write the overlay of the video as a GIF that starts over."""
    with tempfile.TemporaryDirectory() as folder:
        overlay = Path(folder) / "overlay.mp4"
        prediction = load_model(run, segments=8, crops=5).predict(
            run / "demo-videos" / "videos" / VIDEO, overlay=overlay
        )
        print(prediction)  # noqa: T201

        # One palette for all frames: with one each, still areas flicker. Without dithering they stay still.
        scaled = f"scale={GIF_WIDTH}:-1:flags=lanczos,split[a][b];[a]palettegen=max_colors=128[p]"
        filters = f"{scaled};[b][p]paletteuse=dither=none:diff_mode=rectangle"
        command = [find_ffmpeg().path, "-v", "error", "-y", "-i", overlay, "-filter_complex", filters, out]
        subprocess.run(list(map(str, command)), check=True)


def photograph_report(run: Path, folder: Path) -> None:
    """Write the top of the report as the browser draws it, in both colour schemes."""
    program = find_chromium()
    if program is None:
        raise SystemExit("no Chromium here: install one, such as `apt-get install chromium`")
    browser = Browser(program)
    try:
        for scheme in ("light", "dark"):
            width, height = REPORT_SIZE
            report = run / "fuse-eval" / "split1" / "report.html"
            browser.open(report, width=width, height=height, dark=scheme == "dark")
            browser.screenshot(folder / f"report-{scheme}.png")
    finally:
        browser.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="run directory of the demo")
    run_path = parser.parse_args().run
    make_gif(run_path, HERE / "overlay.gif")
    photograph_report(run_path, HERE)
