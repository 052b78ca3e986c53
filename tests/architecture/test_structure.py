"""The shape of the project: who imports whom, what `--help` costs, how long a module may be."""

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("pipeline", "stin", "workflows")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
HEAVY = ("torch", "ray", "cv2", "numba", "h5py", "matplotlib", "numpy")

# Modules over 300 lines need a reason here; a test keeps the list from growing stale.
LONG_MODULES: dict[str, str] = {}

ALLOWED = {  # package -> packages it may import, beside itself
    "stin.shards": (),
    "stin": ("stin.shards",),
    "pipeline": ("stin.shards",),
    "workflows": ("pipeline", "stin", "stin.shards"),
}
ONLY_IN = {
    "ray": ("pipeline/runners/ray.py", "stin/training/launch.py"),
    "click": ("workflows/",),
    "rich": ("workflows/",),
}
NEVER_IN = {
    "stin.shards": ("torch", "ray", "click"),
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
    if name == "stin.shards" or name.startswith("stin.shards."):
        return "stin.shards"
    return name.split(".")[0]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows(path: Path) -> None:
    place = str(path.relative_to(ROOT))
    own = package_of(place.removesuffix(".py").replace("/", "."))
    for name in imports(path):
        target = package_of(name)
        if target in ALLOWED and target != own:
            inside_stin = own == "stin" and target == "stin"
            assert inside_stin or target in ALLOWED[own], f"{place} may not import {name}"
        root = name.split(".")[0]
        for package, banned in NEVER_IN.items():
            assert not (own == package and root in banned), f"{place} may not import {name}"
        if root in ONLY_IN:
            assert any(place.startswith(start) for start in ONLY_IN[root]), f"{place} may not import {name}"


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom workflows.cli import cli\n"
        "try:\n    cli.main(['--help'])\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def commands() -> list[tuple[str, Any]]:
    """Every command with its full name; a group counts by its members."""
    import click

    from workflows.cli import COMMANDS, cli

    found = []
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None and command.name == name
        parts = command.commands.items() if isinstance(command, click.Group) else []
        found += [(f"{name} {part}", subcommand) for part, subcommand in parts] or [(name, command)]
    return found


def test_every_command_exists_has_an_example_and_json() -> None:
    from workflows.cli import COMMANDS

    assert all(short for _, _, short in COMMANDS.values())
    for name, command in commands():
        assert command.help and command.help.strip()
        assert command.epilog and f"stin-pipe {name}" in command.epilog
        options = {option for item in command.params for option in item.opts}
        assert {"--json", "--config", "--debug"} <= options, name


def test_every_command_and_option_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name, command in commands():
        assert f"stin-pipe {name}" in readme
        for item in command.params:
            for option in item.opts:
                if option.startswith("--"):
                    assert f"`{option}" in readme, f"{name} {option} is not in README.md"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_are_short_or_have_a_reason(path: Path) -> None:
    place, lines = str(path.relative_to(ROOT)), len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= 300 or place in LONG_MODULES, f"{place}: {lines} lines"
    if place in LONG_MODULES:
        assert lines > 300, f"{place} is short again; take it off the list"


def test_packages_are_listed_for_installation() -> None:
    import tomllib

    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    there = {".".join(path.parent.relative_to(ROOT).parts) for path in MODULES if path.name == "__init__.py"}
    assert set(listed) == there


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
