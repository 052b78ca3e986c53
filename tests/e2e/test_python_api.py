"""The Python API: its page and its notebook run, its signatures are those of the command line and stay."""

import inspect
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

import stin_pipe

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"

NOT_IN_PYTHON = {"run", "videos", "dry_run", "grace", "config", "json", "debug", "help"}
"""Positional arguments, and options that belong to a terminal."""

SIGNATURES = {
    "load": "(path, *, split='1', streams=None, spatial=(), temporal=(), segments=25, crops=10, "
    "fusion_weights=None, device='auto')",
    "open_run": "(path)",
}
"""Names and defaults of what has no command; changing one breaks programs that use it."""


def code_blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


def code_cells(notebook: dict[str, Any]) -> list[str]:
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_the_notebook_is_made_of_the_page() -> None:
    notebook_of = runpy.run_path(str(DOCS / "make_notebook.py"))["notebook_of"]
    page = (DOCS / "python.md").read_text(encoding="utf-8")
    stored = json.loads((DOCS / "quickstart.ipynb").read_text(encoding="utf-8"))
    assert stored == notebook_of(page), "run docs/make_notebook.py"
    assert [block.strip("\n") for block in code_blocks(page)] == code_cells(stored)


def test_the_notebook_runs_from_top_to_bottom(tmp_path: Path) -> None:
    cells = code_cells(json.loads((DOCS / "quickstart.ipynb").read_text(encoding="utf-8")))
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(cells)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "36 videos, 0 failed" in done.stdout
    assert "fused top-1: " in done.stdout
    assert "torch.Size([4, 10, " in done.stdout or "torch.Size([4, " in done.stdout
    assert (tmp_path / "runs/mine/fuse-eval/split1/report.html").exists()


@pytest.mark.parametrize(
    ("function", "command"),
    [
        ("extract", "extract"),
        ("train", "train-spatial"),
        ("train", "train-temporal"),
        ("evaluate", "fuse-eval"),
    ],
)
def test_stages_have_the_options_and_defaults_of_their_commands(
    function: str, command: str, tmp_path: Path
) -> None:
    from stin_pipe.stages import _checked
    from stin_pipe.workflows.cli import cli

    known = cli.get_command(click.Context(cli), command)
    assert known is not None
    parameters = inspect.signature(getattr(stin_pipe, function)).parameters
    flags = {max(param.opts, key=len).lstrip("-").replace("-", "_"): param for param in known.params}
    named = {name for name, parameter in parameters.items() if parameter.kind is parameter.KEYWORD_ONLY}
    assert named - {"progress"} == set(flags) - NOT_IN_PYTHON

    words = ["--run", str(tmp_path), *(["--videos", str(tmp_path)] if command == "extract" else [])]
    of_the_command = known.make_context(command, words).params
    of_the_function = _checked(known, {name: parameters[name].default for name in named})
    assert of_the_function == {name: of_the_command[name] for name in of_the_function}


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_stay(name: str) -> None:
    signature = inspect.signature(getattr(stin_pipe, name))
    parameters = [item.replace(annotation=inspect.Parameter.empty) for item in signature.parameters.values()]
    plain = signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty)
    assert str(plain) == SIGNATURES[name]


def test_every_public_name_is_there_and_documented() -> None:
    assert set(stin_pipe.__all__) <= set(dir(stin_pipe))
    for name in stin_pipe.__all__:
        assert inspect.getdoc(getattr(stin_pipe, name)), name
    assert re.fullmatch(r"\d+\.\d+.*", stin_pipe.__version__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = stin_pipe.nothing


def test_importing_it_loads_nothing_heavy() -> None:
    heavy = "{'torch', 'numpy', 'cv2', 'h5py', 'numba', 'ray', 'click'}"
    code = f"import sys, stin_pipe; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda path: stin_pipe.extract(path, path, size="64by48"), "size: expected WIDTHxHEIGHT"),
        (lambda path: stin_pipe.extract(path, path, workers=0), "workers: "),
        (lambda path: stin_pipe.extract(path, path, codec="gif"), "codec: "),
        (lambda path: stin_pipe.train(path, "audio"), "stream must be 'spatial' or 'temporal', got 'audio'"),
        (lambda path: stin_pipe.train(path, "spatial", lr=float("nan")), "lr: expected a finite number"),
        (lambda path: stin_pipe.evaluate(path, crops=7), "crops: "),
        (lambda path: stin_pipe.evaluate(path, aux="some"), "aux: expected auto, exclude or a number"),
    ],
)
def test_wrong_values_are_refused_as_on_the_command_line(call, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        call(tmp_path)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    for call in (stin_pipe.open_run, stin_pipe.load, stin_pipe.evaluate):
        with pytest.raises(stin_pipe.StinPipeError, match="not a run directory"):
            call(tmp_path)


def test_a_run_shows_what_it_holds(extracted_run: Path) -> None:
    run = stin_pipe.open_run(extracted_run)
    assert len(run.classes) == 9 and len(run.videos) == 27 and run.splits == ("1",)
    assert (run.trainings, dict(run.evaluations), run.failed) == ((), {}, ())
    assert "split 1: 18 train, 9 test" in repr(run)
    assert "<th" in run._repr_html_() and "18 train, 9 test" in run._repr_html_()


def test_flow_of_two_frames_has_the_motion_between_them() -> None:
    rng = np.random.default_rng(0)
    small = rng.uniform(0, 255, (12, 16))
    frame0 = np.kron(small, np.ones((5, 5))).astype(np.uint8)
    flow = stin_pipe.tvl1(frame0, np.roll(frame0, 2, axis=1))
    assert flow.shape == (60, 80, 2) and flow.dtype == np.float32
    assert abs(np.median(flow[10:-10, 10:-10, 0]) - 2) < 0.2
    assert abs(np.median(flow[10:-10, 10:-10, 1])) < 0.1
    picture = stin_pipe.flow_to_colour(flow)
    assert picture.shape == (60, 80, 3) and picture.dtype == np.uint8
