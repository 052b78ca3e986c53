"""What the documentation site is made of besides the pages of this folder: a hook of mkdocs.

The page of commands is generated from click and that of the Python API from its docstrings, so neither falls
behind the program. README.md and the other documents at the top of the repository become pages too: they are
written once, and read well in both places.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from stin_pipe.workflows.cli import cli

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

ROOT = Path(__file__).resolve().parents[1]

PAGES = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "architecture.md",
    "EXPERIMENTS.md": "experiments.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
"""Documents at the top of the repository, and their pages on the site."""

COMMON = ("--config", "--json", "--debug", "--help")
"""Options that every command takes; they are told once, at the top of the page."""

INTRODUCTION = """# Commands

`stin-pipe COMMAND --help` prints the same on a terminal.

Every command takes `--config FILE.toml`, `--json`, `--debug` and `--help`. A value comes from its flag,
else from the environment (`STIN_PIPE_EXTRACT_SIZE` for `extract --size`; `STIN_PIPE_RUN` for every
command), else from the configuration file, else from the recipe; if none of them sets it, the default
holds.

In the file each command has a table (`[extract]`, `[fuse-eval]`; `[train]` for both trainings) whose
keys are the long options without `--`. `run` and `split` stand above the tables, and arguments are a
list (`videos = ["a.mp4"]` in `[predict]`). A table, key or variable that no command reads is an error.

With `--json` the last line of standard output is one JSON object, also when the command fails. `--debug`
shows the traceback of an error.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | failed |
| 2 | wrong usage |
| 3 | finished, but too large a share of the videos failed (`--max-failure-rate`) |
| 130, 143 | stopped by Ctrl-C or SIGTERM; the same command resumes |
"""


def commands() -> Iterator[tuple[str, click.Command]]:
    """Yield every command with its full name, in the order of `stin-pipe --help`; a group by its members."""
    context = click.Context(cli)
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        members = command.commands if isinstance(command, click.Group) else {"": command}
        for member, subcommand in members.items():
            yield f"{name} {member}".strip(), subcommand


def commands_page() -> str:
    """Return the reference of all commands as Markdown."""
    return INTRODUCTION + "\n".join(_section(name, command) for name, command in commands())


def _section(name: str, command: click.Command) -> str:
    context = click.Context(command, info_name=f"stin-pipe {name}", show_default=True)
    options = [item for item in command.params if isinstance(item, click.Option) and not item.hidden]
    rows = [_row(option, context) for option in options if not set(option.opts) & set(COMMON)]
    table = ["| option | meaning |", "|---|---|", *rows] if rows else []
    epilog = inspect.cleandoc((command.epilog or "").replace("\b", ""))
    examples = re.sub(r"^Examples?.*:\n", "", epilog)
    parts = [
        f"## stin-pipe {name}",
        inspect.cleandoc(command.help or "").replace("\b\n", ""),
        f"```\n{' '.join(command.get_usage(context).removeprefix('Usage: ').split())}\n```",
        "\n".join(table),
        f"```\n{inspect.cleandoc(examples)}\n```" if examples else "",
    ]
    return "\n" + "\n\n".join(part for part in parts if part) + "\n"


def _row(option: click.Option, context: click.Context) -> str:
    """Return a line of the table: the flag and what it takes, its help, its default."""
    record = option.get_help_record(context)
    assert record is not None, option.name
    flag, meaning = record
    flag = re.sub(r"(INTEGER|FLOAT)( RANGE)?", "N", flag).replace("|", "\\|")
    meaning = re.sub(r"\s*\[([^][]*)\]$", lambda bracket: _in_words(bracket[1]), " ".join(meaning.split()))
    code = r"`[^`]*`"
    meaning = re.sub(rf"{code}|[][|<*_]", lambda sign: sign[0] if sign[0][1:] else f"\\{sign[0]}", meaning)
    return f"| `{flag}` | {meaning} |"


def _in_words(bracket: str) -> str:
    """Turn what click adds to a help text, such as `default: 1; 1<=x<=64`, into words."""
    facts = []
    for fact in bracket.split("; "):
        if limits := re.fullmatch(r"(?:(\S+?)(<=?))?x(?:(<=?|>=?)(\S+))?", fact):
            low, low_sign, sign, other = limits.groups()
            if low:
                facts.append(f"{low} to {other}" if low_sign == "<=" else f"above {low}, up to {other}")
            else:
                facts.append({">=": "at least ", ">": "above ", "<=": "up to ", "<": "below "}[sign] + other)
        else:
            facts.append(fact.replace("default:", "default"))
    return f" ({'; '.join(facts)})"


def _moved(text: str, *, top: bool) -> str:
    """Lead the links of a document to where its targets lie on the site; what is not on it loses its link."""
    for document, page in PAGES.items():
        text = text.replace(f"]({'' if top else '../'}{document}", f"]({page}")
    if top:
        text = re.sub(r"(\]\(|src=\"|srcset=\")docs/", r"\1", text)
        text = re.sub(r"\[([^][]+)\]\((?!https?:|pictures/|[\w-]+\.md)[^)]+\)", r"\1", text)
    return text


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not files of this folder."""
    from mkdocs.structure.files import File

    for document, page in PAGES.items():
        content = _moved((ROOT / document).read_text(encoding="utf-8"), top=True)
        files.append(File.generated(config, page, content=content))
    files.append(File.generated(config, "commands.md", content=commands_page()))
    files.append(File.generated(config, "api.md", content="# Python API\n\n::: stin_pipe\n"))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Lead the links of a page of this folder to the documents that became pages."""
    return _moved(markdown, top=False)
