"""The one line that a person gets for errors which are not ours."""

from workflows.cli import describe_error


def test_a_missing_library_of_the_system_is_named_with_its_package() -> None:
    error = ImportError("libGL.so.1: cannot open shared object file: No such file or directory")
    said = describe_error(error)
    assert "libGL.so.1" in said and "apt install libgl1" in said and "unexpected" not in said
    assert describe_error(ImportError("No module named 'x'")).startswith("unexpected ImportError")
