"""The one line that a person gets for errors which are not ours."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest

from workflows import cli as cli_module
from workflows.cli import cli, describe_error, main


def test_a_missing_library_of_the_system_is_named_with_its_package() -> None:
    error = ImportError("libGL.so.1: cannot open shared object file: No such file or directory")
    said = describe_error(error)
    assert "libGL.so.1" in said and "apt install libgl1" in said and "unexpected" not in said
    assert describe_error(ImportError("No module named 'x'")).startswith("unexpected ImportError")


def test_a_mistyped_command_is_answered_with_the_nearest() -> None:
    with pytest.raises(click.UsageError) as raised:
        cli.main(["extrat", "--run", "r"], standalone_mode=False)
    assert "Did you mean extract?" in raised.value.format_message()
    with pytest.raises(click.UsageError) as raised:
        cli.main(["zzz"], standalone_mode=False)
    assert "Did you mean" not in raised.value.format_message()


@pytest.mark.parametrize(("left_with", "code"), [(int(signal.SIGTERM), 143), (7, 7)])
def test_what_ray_makes_of_sigterm_while_it_starts_is_an_orderly_end(
    left_with: int, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def leave(**_: object) -> None:
        raise SystemExit(left_with)  # what the handler does that ray.init puts in place

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(cli_module.cli, "main", leave)
    monkeypatch.setattr(sys, "argv", ["stin-pipe", "extract"])
    try:
        with pytest.raises(SystemExit) as left:
            main()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert left.value.code == code
    assert ("the same command resumes" in capsys.readouterr().err) == (code == 143)


COMPLETED = {
    "stin-pipe ex": {"extract", "export"},
    "stin-pipe fuse-eval --tune": {"--tune-fusion"},
    "stin-pipe extract --flow c": {"cuda", "cpu"},
    "stin-pipe job sl": {"slurm"},
}


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_bash_completes_commands_options_and_values() -> None:
    """In a real bash: the function that the script defines is called as bash calls it after TAB."""
    program = Path(sys.executable).with_name("stin-pipe")
    told = subprocess.run(
        [program, "completion", "bash", "--json"], capture_output=True, text=True, check=True
    )
    script = json.loads(told.stdout)["script"]
    for line, wanted in COMPLETED.items():
        words = " ".join(f"'{word}'" for word in line.split())
        ask = f"COMP_WORDS=({words}); COMP_CWORD={len(line.split()) - 1}; _stin_pipe_completion {program}\n"
        done = subprocess.run(
            ["bash", "-c", f"{script}\n{ask}printf '%s\\n' \"${{COMPREPLY[@]}}\""],
            capture_output=True,
            text=True,
            check=True,
        )
        assert set(done.stdout.split()) == wanted, line
