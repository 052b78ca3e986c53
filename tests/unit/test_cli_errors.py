"""The one line that a person gets for errors which are not ours."""

import click
import pytest

from workflows.cli import cli, describe_error


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
