"""The documents say what the program does: its commands, its options, its error texts, its files."""

import ast
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SOURCES = [path for package in ("pipeline", "stin", "workflows") for path in (ROOT / package).rglob("*.py")]


def texts() -> list[str]:
    """Every text in the source, with a mark in place of what is put in when the program runs."""
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (str(part.value) if isinstance(part, ast.Constant) else "\0" for part in node.values)
                found.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def test_every_quoted_error_is_a_text_of_the_program() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    quotes = re.findall(r"^- `([^`]+)`:", page, flags=re.MULTILINE)
    assert len(quotes) >= 30
    known = texts()
    for quote in quotes:
        parts = [re.escape(part) for part in quote.split("...") if part.strip()]
        pattern = re.compile(".*".join(parts), flags=re.DOTALL)
        assert any(pattern.search(text) for text in known), f"no such text in the program: {quote}"


def commands_of(page: Path) -> list[list[str]]:
    """The `stin-pipe` lines of a page's code blocks."""
    found = []
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    for block in (block for language, block in blocks if language in ("", "console")):
        for line in block.replace("\\\n", " ").splitlines():
            if "stin-pipe " in line and not re.search(r"docker|──|image:", line):
                words = shlex.split(line[line.index("stin-pipe ") :], comments=True)
                found.append([word for word in words if word not in ("&&", ";")])
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_line_can_be_given(page: Path) -> None:
    import click

    from stin_pipe.workflows.cli import cli

    for words in commands_of(page):
        context = click.Context(cli)
        command = cli.get_command(context, words[1])
        assert command is not None, words
        rest = words[2:]
        if isinstance(command, click.Group):
            command, rest = command.get_command(context, rest[0]), rest[1:]
            assert command is not None, words
        options = {option for item in command.params for option in item.opts} | {"--help"}
        for word in rest:
            if word.startswith("--"):
                assert word.split("=")[0] in options, f"{page.name}: {shlex.join(words)}: {word}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)
    for target in links + re.findall(r'(?:src|srcset)="([^":]+)"', text):
        assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_page_is_reached_from_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for page in PAGES[1:]:
        assert f"docs/{page.name}" in readme


def site_pages() -> ModuleType:
    """The hook that makes the pages of the site which are not files of docs/."""
    spec = importlib.util.spec_from_file_location("site_pages", ROOT / "docs" / "site_pages.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_command_and_option_is_in_the_reference() -> None:
    pages = site_pages()
    introduction, *sections = re.split(r"^## stin-pipe ", pages.commands_page(), flags=re.MULTILINE)
    sections = {section.splitlines()[0]: section for section in sections}
    names = [name for name, _ in pages.commands()]
    assert list(sections) == names and len(names) >= 18
    for name, command in pages.commands():
        for option in (option for item in command.params for option in item.opts if option.startswith("--")):
            where = introduction if option in pages.COMMON else sections[name]
            assert re.search(rf"`{option}[ `]", where), f"{name} {option} is not in the reference"


def test_the_site_builds_with_every_link_and_without_a_network(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="the documentation site needs the extra `docs`")
    pytest.importorskip("mkdocstrings", reason="the documentation site needs the extra `docs`")
    pytest.importorskip("material", reason="the documentation site needs the extra `docs`")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "https_proxy": "http://127.0.0.1:9"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {path.parent.name: path.read_text(encoding="utf-8") for path in tmp_path.rglob("index.html")}
    assert "stin-pipe train-temporal" in pages["commands"]
    assert "stin_pipe.tvl1" in pages["api"] and "__getattr__" not in pages["api"]
    for name, page in pages.items():  # a browser that is offline misses nothing
        loaded = re.findall(
            r"<(?:script|img|link rel=.stylesheet.)[^>]*?(?:src|href)=.(https?:[^\"' >]+)", page
        )
        assert not loaded, f"{name} loads {loaded}"


def test_the_code_of_the_shard_format_reads_a_shard(
    extracted_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "docs" / "shard-format.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(extracted_run / "extract" / "shards")
    names: dict = {}
    exec(compile(code, "docs/shard-format.md", "exec"), names)  # noqa: S102 - our own page
    assert names["frames"].shape == (7, 32, 48, 3)
    assert names["x_px"].shape == names["y_px"].shape == (6, 32, 48)
    assert abs(names["x_px"]).max() > 0.5  # something moves in the made videos
    assert capsys.readouterr().out.count("\n") == 1  # one video in a shard of so few


def test_every_experiment_has_its_figures() -> None:
    text = (ROOT / "EXPERIMENTS.md").read_text(encoding="utf-8")
    for path in (ROOT / "benchmarks" / "results").glob("*.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        assert f"`{path.name}`" in text, f"EXPERIMENTS.md does not name {path.name}"
        assert record["question"] and record["measurements"]
        for measurement in record["measurements"]:
            assert {"date", "commit", "command", "machine", "values"} <= set(measurement), path.name
    for name in re.findall(r"`([a-z0-9-]+\.json)`", text):
        assert (ROOT / "benchmarks" / "results" / name).exists() or name in ("flow.json", "out.json"), name


def test_every_name_and_file_of_the_code_that_a_page_shows_exists() -> None:
    for page in (*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "ARCHITECTURE.md"):
        text = page.read_text(encoding="utf-8")
        for file in re.findall(r"`((?:pipeline|stin|workflows|tests|benchmarks|docs)/[\w/.-]+\.\w+)`", text):
            assert (ROOT / file).exists(), f"{page.name}: {file}"
        for name, file in re.findall(r"`(\w+)` (?:in|of)\s+`([\w/]+\.py)`", text):
            tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
            targets = [
                target
                for node in tree.body
                for target in getattr(node, "targets", [getattr(node, "target", None)])
            ]
            defined = {getattr(node, "name", None) for node in tree.body} | {
                target.id for target in targets if isinstance(target, ast.Name)
            }
            assert name in defined, f"{page.name}: {file} defines no {name}"


def test_every_key_of_metrics_is_told() -> None:
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8").split("## metrics.json")[1]
    told = {
        key for row in re.findall(r"^\| (`.*?) \|", page, re.MULTILINE) for key in re.findall(r"`(\w+)`", row)
    }
    tree = ast.parse((ROOT / "stin" / "results" / "split_result.py").read_text(encoding="utf-8"))
    keys = [
        {key.value for key in node.keys if isinstance(key, ast.Constant)}
        for node in ast.walk(tree)
        if isinstance(node, ast.Dict)
    ]
    parts = [names for names in keys if names & {"interval_method", "num_videos"}]
    written = set().union(*parts)
    assert len(parts) == 2
    assert not written - told
    assert told - written == {"spatial", "temporal", "fused"}  # one key a stream
