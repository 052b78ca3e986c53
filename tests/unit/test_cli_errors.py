"""The one line that a person gets for errors which are not ours."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest

from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.names import plain
from stin_pipe.stin.shards.publish import json_text
from stin_pipe.workflows import cli as cli_module
from stin_pipe.workflows.cli import cli, describe_error, main
from stin_pipe.workflows.terminal.exits import Terminated
from stin_pipe.workflows.terminal.output import Output, invocation


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
    monkeypatch.setattr(invocation, "command", "")
    monkeypatch.setattr(cli_module.cli, "main", leave)
    monkeypatch.setattr(sys, "argv", ["stin-pipe", "extract"])
    try:
        with pytest.raises(SystemExit) as left:
            main()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert left.value.code == code
    assert ("the same command resumes" in capsys.readouterr().err) == (code == 143)


@pytest.mark.parametrize(("stop", "code"), [(Terminated, 143), (KeyboardInterrupt, 130)])
def test_a_stop_in_the_middle_of_compiling_is_no_unexpected_error(
    stop: type[BaseException],
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What numba makes of it: an error of its own, while it cleans up."""

    def compile_kernel(**_: object) -> None:
        try:
            raise stop
        finally:
            raise RuntimeError("no compiled object yet for <library>")

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(invocation, "command", "")
    monkeypatch.setattr(cli_module.cli, "main", compile_kernel)
    monkeypatch.setattr(sys, "argv", ["stin-pipe", "predict"])
    try:
        with pytest.raises(SystemExit) as left:
            main()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert left.value.code == code and "unexpected" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "environment", "command"),
    [
        (["train-spatial", "--run", "."], {"STIN_PIPE_TRAIN_SPATIAL_JSON": "1"}, "train-spatial"),
        (["train-spatial", "--config", "c.toml"], {}, "train-spatial"),
        (["job", "slurm", "--json", "--config", "c.toml"], {}, "job slurm"),
        (["job", "slurm", "--json", "--nodes", "x"], {}, "job slurm"),
    ],
)
def test_json_is_printed_on_failure_wherever_it_was_asked_for(
    words: list[str], environment: dict[str, str], command: str, tmp_path: Path, call
) -> None:
    (tmp_path / "c.toml").write_text('run = "."\n[train-spatial]\njson = true\n[extract]\nvideos = "none"\n')
    called = call(*words, cwd=tmp_path, env=environment)
    assert called.code and called.json["exit_code"] == called.code and called.json["command"] == command


def test_debug_from_the_environment_shows_the_traceback(tmp_path: Path, call) -> None:
    called = call("status", "--run", tmp_path, env={"STIN_PIPE_STATUS_DEBUG": "1"})
    assert called.code == 1 and "Traceback" in called.stderr
    assert "Traceback" not in call("status", "--run", tmp_path).stderr


@pytest.mark.parametrize("words", ["status --run none --json", "completion bash", "--help"])
@pytest.mark.parametrize("to", [">/dev/full", ">&-", ">&- 2>&-"])
def test_a_standard_output_that_cannot_be_written_is_no_traceback(
    words: str, to: str, tmp_path: Path
) -> None:
    program = f"{sys.executable} -c 'from stin_pipe.workflows.cli import main; main()'"
    done = subprocess.run(
        ["bash", "-c", f"{program} {words} {to}"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        cwd=tmp_path,
    )
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    assert done.returncode == (0 if to != ">/dev/full" and "none" not in words else 1), done.stderr


ODD = "b\nwarning: all is well\r\x85\u2028\u2029\v\f\x1b[31m\u202e\u200f"
ODD_SHOWN = "b\\x0awarning: all is well\\x0d\\x85\\u2028\\u2029\\x0b\\x0c\\x1b[31m\\u202e\\u200f"


def test_names_of_files_cannot_speak_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    odd = f"a\x1b[31m\x07\tb\x9b\udcffé{ODD}"
    said = f"a\\x1b[31m\\x07\\x09b\\x9b\\xffé{ODD_SHOWN}"
    assert plain(odd) == said and plain("\ud800") == "\\ud800"
    output = Output(as_json=False, command="x")
    output.say(odd)
    output.warn(odd)
    output.show(odd)
    output.table(odd, [odd], [[odd]])
    with output.progress(odd, 2, unit="videos") as meter:
        meter.update(1, odd)
    shown = capsys.readouterr()
    assert f"{said}\nwarning: {said}\n" in shown.err and shown.out.startswith(f"{said}\n")
    lines = (shown.out + shown.err).split("\n")
    assert all(plain(line) == line for line in lines)
    assert [line for line in lines if line.startswith("warning")] == [f"warning: {said}"]


def test_a_name_forges_no_line_of_progress(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr("stin_pipe.workflows.terminal.output.LOG_INTERVAL_S", 0.0)
    with Output(as_json=False, command="x").progress(ODD, 2, unit="videos") as meter:
        meter.update(1, ODD)
    assert capsys.readouterr().err.splitlines() == [f"{ODD_SHOWN}: 1/2 videos, {ODD_SHOWN}"]


@pytest.mark.parametrize("as_json", [False, True])
def test_a_name_forges_no_line_of_an_error(
    as_json: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only the details of an error begin lines of their own, and names in them do not."""

    def fail(**_: object) -> None:
        raise StinPipeError(ODD, next_step="look", details=("first:", f"  {ODD}"))

    monkeypatch.setattr(cli_module.cli, "main", fail)
    monkeypatch.setattr(sys, "argv", ["stin-pipe", "status", *(["--json"] if as_json else [])])
    with pytest.raises(SystemExit):
        main()
    shown = capsys.readouterr()
    assert shown.err.splitlines() == [f"stin-pipe: {ODD_SHOWN}; look", "first:", f"  {ODD_SHOWN}"]
    if as_json:
        assert json.loads(shown.out)["error"] == f"{ODD}; look\nfirst:\n  {ODD}"


def test_the_names_of_a_run_that_does_not_exist_forge_no_line(tmp_path: Path, call) -> None:
    called = call("status", "--run", tmp_path / ODD)
    assert called.code == 1 and len(called.stderr.splitlines()) == 1 and ODD_SHOWN in called.stderr


def test_json_files_keep_names_exact_and_show_no_control_character() -> None:
    for indent in (None, 1):
        text = json_text({ODD: [ODD, "é\udcff\x7f"]}, indent=indent)
        assert json.loads(text) == {ODD: [ODD, "é\udcff\x7f"]} and "é" in text
        assert all(plain(line) == line for line in text.split("\n"))
        assert text.count("\n") == (5 if indent else 0)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e999"])
@pytest.mark.parametrize(
    "words",
    ["extract --timeout", "extract --max-failure-rate", "import --timeout", "import --fps", "import --bound"],
)
def test_numbers_that_are_not_finite_are_refused(words: str, value: str) -> None:
    with pytest.raises(click.BadParameter, match=r"expected a finite number|is not in the range"):
        cli.main([*words.split(), value], standalone_mode=False)


def test_the_last_line_is_json_whatever_the_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"loss": float("nan"), "list": [1.5, float("inf"), (2, -float("inf"))], "text": "NaN"}
    Output(as_json=True, command="x").result(value)
    said = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert said == {"command": "x", "loss": None, "list": [1.5, None, [2, None]], "text": "NaN"}


COMPLETED = {
    "stin-pipe ex": {"extract", "export"},
    "stin-pipe fuse-eval --tune": {"--tune-fusion"},
    "stin-pipe extract --flow c": {"cuda", "cpu"},
    "stin-pipe job sl": {"slurm"},
    "stin-pipe train-spatial --recipe tsn": {"tsn-ucf101", "tsn-hmdb51"},
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


def test_a_file_that_begins_with_a_dash_is_told_how_to_write_it(tmp_path: Path, call) -> None:
    (tmp_path / "-départ.mp4").write_bytes(b"x")
    called = call("predict", "--model", "m", "-départ.mp4", cwd=tmp_path)
    assert called.code == 2 and "If it is a file, write ./-départ.mp4" in called.stderr
    assert "If it is" not in call("predict", "-dépot.mp4", cwd=tmp_path).stderr


def test_numbers_are_asked_for_in_plain_words(call) -> None:
    assert "'soixante' is not a valid whole number." in call("extract", "--short-side", "soixante").stderr
    assert "'much' is not a valid number." in call("train-spatial", "--lr", "much").stderr


@pytest.mark.parametrize(
    ("command", "resumes"), [("train-spatial", True), ("run", True), ("predict", False), ("compare", False)]
)
def test_a_stopped_command_says_that_it_resumes_only_if_it_does(
    command: str, resumes: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def leave(**_: object) -> None:
        invocation.note(command)
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(invocation, "command", "")
    monkeypatch.setattr(cli_module.cli, "main", leave)
    monkeypatch.setattr(sys, "argv", ["stin-pipe", "--some-flag", command])
    try:
        with pytest.raises(SystemExit) as left:
            main()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert left.value.code == 130
    assert ("the same command resumes" in capsys.readouterr().err) == resumes


def test_a_run_that_is_not_there_may_be_misspelled(tmp_path: Path, call) -> None:
    assert "does not exist; is it misspelled?" in call("verify", "--run", tmp_path / "nope").stderr


def test_a_narrow_terminal_keeps_bar_count_and_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("FORCE_COLOR", "1"), ("TERM", "xterm"), ("COLUMNS", "80")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)
    with Output(as_json=False, command="x").progress("train-spatial", 400, unit="steps") as meter:
        meter.update(90, "epoch 9/40, loss 2.153, 59.8 videos/s, held-out top-1 1.000, 502.0 MiB")
    shown = re.sub(r"\x1b\[[?0-9;]*[a-zA-Z]", "", capsys.readouterr().err)
    line = [line.rstrip() for line in re.split(r"[\r\n]+", shown) if "90/400" in line][-1]
    assert re.search(r"[━╺╸]{10} +90/400 +\S+:\S+:\S+ epoch 9/40, loss.*…$", line) and len(line) <= 80, line
