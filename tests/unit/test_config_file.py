"""Values of a configuration file that are no plain options: arguments of many values."""

from pathlib import Path

import click
import pytest

from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.workflows.cli import cli


def compare(file: Path, line: str) -> None:
    file.write_text(f"[compare]\n{line}\n")
    cli.main(["compare", "--config", str(file)], standalone_mode=False)


def test_a_list_serves_as_the_arguments_of_a_command(tmp_path: Path) -> None:
    with pytest.raises(StinPipeError, match="first: no such run or score file"):
        compare(tmp_path / "c.toml", 'results = ["first", "second"]')
    with pytest.raises(click.UsageError, match="give two or more run directories"):
        compare(tmp_path / "c.toml", 'results = ["first"]')


@pytest.mark.parametrize("value", ['"first"', "5", "[5]", "[]", '[["first", "second"]]'])
def test_another_kind_of_value_is_told_with_what_to_write(value: str, tmp_path: Path) -> None:
    with pytest.raises(click.BadParameter, match=r'write a list: results = \["...", "..."\]'):
        compare(tmp_path / "c.toml", f"results = {value}")


def test_a_misspelled_key_is_answered_with_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("[extract]\nshort_sid = 64\n")
    with pytest.raises(click.BadParameter, match=r"has no option 'short_sid'; did you mean short_side\?$"):
        cli.main(["extract", "--config", str(tmp_path / "c.toml")], standalone_mode=False)


def test_a_misspelled_variable_is_answered_with_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STIN_PIPE_EXTRACT_SHORTSIDE", "64")
    with pytest.raises(click.UsageError, match=r"extract; did you mean STIN_PIPE_EXTRACT_SHORT_SIDE\?$"):
        cli.main(["extract"], standalone_mode=False)
