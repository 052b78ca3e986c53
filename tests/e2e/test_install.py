"""The wheel: what is in it, and that it works away from the checkout."""

import os
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("pipeline", "stin", "workflows")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the tree so that no build folder is left in it."""
    copy = tmp_path_factory.mktemp("tree")
    for name in ("stin_pipe", *PACKAGES):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    build = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", build, copy / "dist"], cwd=copy, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (found,) = (copy / "dist").glob("stin_pipe-*.whl")
    return found


def test_the_wheel_holds_every_file_of_the_packages_and_nothing_else(wheel: Path) -> None:
    own = {f"stin_pipe/{path.name}" for path in (ROOT / "stin_pipe").iterdir() if path.is_file()}
    there = own | {
        f"stin_pipe/{path.relative_to(ROOT)}"
        for name in PACKAGES
        for path in (ROOT / name).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert packed == there
    assert {f"stin_pipe/workflows/{name}" for name in ("commands/run.toml", "report/page.css")} <= packed


def test_the_wheel_works_away_from_the_checkout(wheel: Path, tmp_path: Path) -> None:
    """Templates and starter file are found in the installed packages."""
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    (tmp_path / "videos" / "a").mkdir(parents=True)
    (tmp_path / "videos" / "a" / "x.mp4").write_bytes(b"x")

    def call(*arguments: str) -> str:
        code = "from stin_pipe.workflows import cli; assert cli.__file__.startswith(%r); cli.main()"
        done = subprocess.run(
            [sys.executable, "-c", code % str(site), *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(site)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    call("run", "--write-config", "run.toml")
    assert "extract" in call("run", "--config", "run.toml", "--dry-run")
    call("job", "slurm", "--config", "run.toml", "--out", "jobs")
    assert "stin-pipe extract" in (tmp_path / "jobs" / "extract.sh").read_text()


def strangers_wheel(folder: Path) -> Path:
    """A wheel that owns the top-level names `workflows`, `pipeline` and `stin`; a real one owns the first."""
    path, info = folder / "stranger-1.0-py3-none-any.whl", "stranger-1.0.dist-info"
    files = {f"{name}/__init__.py": f"OWNER = 'stranger, {name}'\n" for name in PACKAGES}
    files[f"{info}/METADATA"] = "Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n"
    files[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in (*files, f"{info}/RECORD"))
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


def test_no_order_of_installing_and_removing_hurts_us_or_a_stranger(wheel: Path, tmp_path: Path) -> None:
    stranger = strangers_wheel(tmp_path)
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"

    def pip(*arguments: object) -> None:
        quiet = ("--quiet", "--disable-pip-version-check", "--python", python)
        command = [sys.executable, "-m", "pip", *quiet, *arguments]
        # The tests' path leads to the checkout, whose metadata would pass for an installation.
        env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        subprocess.run([str(word) for word in command], capture_output=True, check=True, env=env)

    def whole(path: Path) -> bool:
        """Tell whether every file of a wheel is there as it was packed."""
        (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
        archive = zipfile.ZipFile(path)
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
        return all(
            (site / name).is_file() and (site / name).read_bytes() == archive.read(name) for name in names
        )

    for first, second in ((wheel, stranger), (stranger, wheel)):
        pip("install", "--no-deps", "--no-index", "--no-compile", first)
        pip("install", "--no-deps", "--no-index", "--no-compile", second)
        assert whole(first) and whole(second)
        pip("uninstall", "--yes", first.name.split("-")[0])
        assert whole(second) and not whole(first)
        pip("uninstall", "--yes", second.name.split("-")[0])
        assert not whole(second)


def test_the_base_needs_no_extra() -> None:
    """What only clusters, curves or tests need is in an extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    base = " ".join(project["dependencies"])
    extras = project["optional-dependencies"]
    for extra, packages in (("cluster", ["ray"]), ("report", ["tensorboard", "matplotlib"])):
        for package in packages:
            assert package not in base
            assert any(item.startswith(package) for item in extras[extra])
    assert extras["all"] == ["stin-pipe[cluster,report]"]
    assert {"cuda", "cuda12", "dev"} <= set(extras)
