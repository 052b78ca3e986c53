"""The shape of the project: arrows, what `--help` costs, how full a folder is, how long a function."""

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("pipeline", "stin", "workflows")
MODULES = sorted(path for package in (*PACKAGES, "stin_pipe") for path in (ROOT / package).rglob("*.py"))
HEAVY = ("torch", "ray", "cv2", "numba", "h5py", "matplotlib", "numpy")

MOST_FILES = 20
"""Python files of one folder, `__init__` apart."""

MOST_LINES = 60
"""Lines of a function; a longer one needs its reason below."""

LONG_FUNCTIONS: dict[str, str] = {
    "pipeline/decoding/frames.py:decode_timed": "half of it is its arguments and what they mean",
    "pipeline/flow/cuda/patch.py:patch_functions": "small functions, compiled together for one size of block",
    "pipeline/flow/cuda/solver.py:build_iterate": "holds `iterate`, compiled for one size of block",
    "pipeline/flow/cuda/solver.py:iterate": "registers are counted: what lives in its loop must be in sight",
    "stin/results/split_result.py:judge_split": "one dict, in the order in which metrics.json is read",
    "stin/scoring/score_split.py:score_split": "half of it is its arguments and what they mean",
    "stin_pipe/stages.py:extract": "the options of the command, each with its meaning",
    "stin_pipe/stages.py:train": "the options of the command, each with its meaning",
}

ALLOWED = {  # package -> packages it may import, beside itself
    "stin.shards": (),
    "stin.processes": ("stin.shards",),
    "stin": ("stin.shards", "stin.processes"),
    "pipeline": ("stin.shards", "stin.processes"),
    "workflows": ("pipeline", "stin", "stin.shards", "stin.processes"),
    "stin_pipe": ("pipeline", "stin", "stin.shards", "stin.processes", "workflows"),
}
ONLY_IN = {
    "ray": ("pipeline/runners/ray.py", "stin/train_on_ray.py", "stin/processes/ray_session.py"),
    "click": ("workflows/", "stin_pipe/stages.py"),
    "rich": ("workflows/",),
}
NEVER_IN = {
    "stin.shards": ("torch", "ray", "click"),
    "stin.processes": ("torch", "numpy", "click"),
    "pipeline": ("click", "rich"),
    "stin": ("click", "rich"),
}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def package_of(name: str) -> str:
    parts = name.removeprefix("stin_pipe.").split(".")
    if parts[0] not in PACKAGES:
        return "stin_pipe"
    shared = ".".join(parts[:2])
    return shared if shared in ("stin.shards", "stin.processes") else parts[0]


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows(path: Path) -> None:
    place, own = str(path.relative_to(ROOT)), package_of(name_of(path))
    for name in imports(path):
        root = name.split(".")[0]
        assert root not in PACKAGES, f"{place} imports {name}; our packages are stin_pipe.{name}"
        target = package_of(name) if root == "stin_pipe" else ""
        if target in ALLOWED and target != own:
            assert target in ALLOWED[own], f"{place} may not import {name}"
        assert root not in NEVER_IN.get(own, ()), f"{place} may not import {name}"
        if root in ONLY_IN:
            assert any(place.startswith(start) for start in ONLY_IN[root]), f"{place} may not import {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_of_ours_are_looked_for_in_the_one_package(path: Path) -> None:
    """A checkout has a folder `workflows` to import by accident; an installation has none."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, (ast.Name, ast.Attribute)):
            name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
            if name in ("PackageLoader", "files", "import_module") and node.args:
                package = getattr(node.args[0], "value", "")
                assert str(package).split(".")[0] not in PACKAGES, f"{path}: {name}({package!r})"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_parsed_by_the_bounded_reader_alone(path: Path) -> None:
    """A file of a run or a stranger may be a pipe, of any size, or nested without an end."""
    if path.name == "bounded.py":
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        # What was just written by `json.dumps` is no file.
        parses = called in ("json.loads", "json.load", "tomllib.loads", "tomllib.load")
        assert not parses or ast.unparse(node.args[0]).startswith("json.dumps("), f"{path}: {called}"


def test_no_command_imports_another() -> None:
    for path in (ROOT / "workflows" / "commands").glob("*.py"):
        for name in imports(path):
            other = name.removeprefix("stin_pipe.workflows.commands.")
            assert other == name, f"{path.name} imports the command {other}"


def test_no_folder_is_a_corridor() -> None:
    folders = Counter(path.parent for path in MODULES if path.name != "__init__.py")
    crowded = {str(folder): count for folder, count in folders.items() if count > MOST_FILES}
    assert not crowded, crowded


def functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]


def test_long_functions_have_a_reason() -> None:
    long = {
        f"{path.relative_to(ROOT)}:{function.name}"
        for path in MODULES
        for function in functions(path)
        if (function.end_lineno or 0) - function.lineno + 1 > MOST_LINES
    }
    assert long == set(LONG_FUNCTIONS)


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom stin_pipe.workflows.cli import cli\n"
        "try:\n    cli.main(['--help'])\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def commands() -> list[tuple[str, Any]]:
    """Every command with its full name; a group counts by its members."""
    import click

    from stin_pipe.workflows.cli import cli
    from stin_pipe.workflows.terminal.commands import COMMANDS

    found = []
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None and command.name == name
        parts = command.commands.items() if isinstance(command, click.Group) else []
        found += [(f"{name} {part}", subcommand) for part, subcommand in parts] or [(name, command)]
    return found


def test_every_command_exists_has_an_example_and_json() -> None:
    from stin_pipe.workflows.terminal.commands import COMMANDS

    assert all(short for _, _, short in COMMANDS.values())
    for name, command in commands():
        assert command.help and command.help.strip()
        assert command.epilog and f"stin-pipe {name}" in command.epilog
        options = {option for item in command.params for option in item.opts}
        assert {"--json", "--config", "--debug"} <= options, name


def test_every_package_is_installed() -> None:
    """The links in stin_pipe/ and setuptools' search hold every folder with code."""
    from setuptools import find_packages

    packages = find_packages(str(ROOT), include=["stin_pipe*"])
    folders = {".".join(("stin_pipe", *path.parent.relative_to(ROOT).parts)) for path in MODULES}
    folders = {folder.replace("stin_pipe.stin_pipe", "stin_pipe") for folder in folders}
    assert set(packages) == folders


def test_tests_are_no_package() -> None:
    assert list((ROOT / "tests").rglob("__init__.py")) == []


def test_the_read_path_of_architecture_exists() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    section = text.split("## One video, file by file")[1].split("\n## ")[0]
    named = [word.strip("`") for word in section.split() if word.startswith("`") and ".py`" in word]
    files = [word.split("`")[0] for word in named]
    assert 9 <= len(files) <= 14
    for file in files:
        assert (ROOT / file).exists(), file
