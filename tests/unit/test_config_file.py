"""Values of a configuration file: lists, mistakes, and which value a mistake is traced to."""

import pickle
from pathlib import Path

import click
import pytest

from stin_pipe.stin.shards.errors import ArgumentError, StinPipeError
from stin_pipe.workflows.cli import cli
from stin_pipe.workflows.terminal.config_file import place_of_mistake
from stin_pipe.workflows.terminal.options import common_options, usage_errors
from stin_pipe.workflows.terminal.output import Output
from stin_pipe.workflows.terminal.stage_values import read_stage


def compare(file: Path, line: str) -> None:
    file.write_text(f"[compare]\n{line}\n")
    cli.main(["compare", "--config", str(file)], standalone_mode=False)


def test_a_list_serves_as_the_arguments_of_a_command(tmp_path: Path) -> None:
    with pytest.raises(StinPipeError, match="first: no such run or score file"):
        compare(tmp_path / "c.toml", 'results = ["first", "second"]')
    with pytest.raises(click.UsageError, match="give two or more results"):
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


@click.command("extract")
@click.option("--stride", type=int, default=1)
@click.option("--codec", default="jpeg")
@click.option("--limit", "num_videos", type=int)
@common_options
def wrong_codec(output: Output, stride: int, codec: str, num_videos: int | None) -> None:
    """Refuse the codec, in a message that holds the values of the other options too."""
    with usage_errors():
        raise ArgumentError(f"codec {codec!r} of 2 frames (--stride {stride}, --limit {num_videos})", "codec")


@pytest.mark.parametrize(
    ("words", "place"),
    [
        ([], " (codec is from c.toml, [extract])"),
        (["--stride", "3"], " (codec is from c.toml, [extract])"),
        (["--codec", "gif"], ""),  # the flag's value is wrong, not the file's
    ],
)
def test_the_option_that_is_wrong_is_blamed_and_no_other_whose_value_the_message_holds(
    words: list[str], place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.toml").write_text('[extract]\nstride = 2\nlimit = 2\ncodec = "gif"\n')
    with pytest.raises(click.UsageError) as raised:
        wrong_codec.main(["--config", "c.toml", *words], "extract", standalone_mode=False)
    assert place_of_mistake(raised.value) == place


def test_an_argument_error_keeps_its_names_on_the_way_from_a_worker() -> None:
    error = ArgumentError("--list and --splits exclude each other", "list_csv", "splits")
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - as a worker process hands it back
    assert (str(again), again.arguments) == (str(error), ("list_csv", "splits"))


@pytest.mark.parametrize(
    ("changes", "arguments"),
    [
        ({"tune_fusion": True, "fusion_weights": (1.0, 2.0)}, ("tune_fusion",)),
        ({"files": {"pose": Path("pose.csv")}, "split": "all"}, ("files", "split")),
        ({"files": {"pose": Path("pose.csv")}}, ("files",)),
        ({"fusion_weights": (1.0,)}, ("fusion_weights",)),
    ],
)
def test_options_of_an_evaluation_that_do_not_fit_are_named(changes: dict, arguments: tuple) -> None:
    from stin_pipe.workflows.run.evaluation import EvalOptions, check_options

    with pytest.raises(ArgumentError) as raised:
        check_options(EvalOptions(**changes), files_are_here=False)
    assert raised.value.arguments == arguments


def read_for_chain(file: Path, command: str) -> dict:
    root = click.Context(cli, info_name="stin-pipe", auto_envvar_prefix="STIN_PIPE")
    chain = cli.get_command(root, "run")
    assert chain is not None
    return read_stage(
        click.Context(chain, info_name="run", parent=root), file, command, file.parent / "my run"
    )


@pytest.mark.parametrize(
    ("command", "table", "line", "by_hand"),
    [
        ("train-spatial", "train", 'name = "s1"', "train by hand: stin-pipe train-spatial"),
        ("train-temporal", "train-temporal", "more-epochs = 2", "train by hand: stin-pipe train-temporal"),
        ("train-spatial", "train-spatial", 'continue_from = "s1"', "train by hand: stin-pipe train-spatial"),
        ("fuse-eval", "fuse-eval", 'spatial = ["s1"]', "evaluate by hand: stin-pipe fuse-eval"),
        ("fuse-eval", "fuse-eval", 'name = "seeds"', "evaluate by hand: stin-pipe fuse-eval"),
    ],
)
def test_the_chain_refuses_named_trainings(
    command: str, table: str, line: str, by_hand: str, tmp_path: Path
) -> None:
    """They would be trained, while the chain goes by the default ones."""
    file = tmp_path / "c.toml"
    file.write_text(f"[{table}]\n{line}\n")
    with pytest.raises(click.UsageError) as refused:
        read_for_chain(file, command)
    key = line.split(" ")[0].replace("-", "_")
    assert refused.value.message.startswith(f"{file}: [{table}] has {key}, but the chain trains")
    option = f"--{key}" if command == "fuse-eval" else "--name"
    assert refused.value.message.endswith(f"{by_hand} --run '{tmp_path / 'my run'}' {option} NAME")

    file.write_text(f"[{table}]\n")
    assert "name" in read_for_chain(file, command)


def test_the_chain_refuses_a_named_training_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STIN_PIPE_TRAIN_SPATIAL_NAME", "s1")
    (tmp_path / "c.toml").write_text("[train]\nseed = 1\n")
    assert read_for_chain(tmp_path / "c.toml", "train-temporal")["seed"] == 1
    with pytest.raises(click.UsageError, match=r"STIN_PIPE_TRAIN_SPATIAL_NAME is set, .* unset it,"):
        read_for_chain(tmp_path / "c.toml", "train-spatial")
