"""Variants are trained with equal seeds, judged on equal videos, and compared pair by pair."""

import itertools
import json
import shutil

import numpy as np
import pytest

import stin_pipe.stin.results.ablation_table
from stin_pipe.stin.ablation import Variant, named_variants, run_ablation
from stin_pipe.stin.results.ablation_table import Judgement, paired_difference, tabulate
from stin_pipe.stin.scoring.score_split import TestProtocol
from stin_pipe.stin.shards.errors import StinPipeError
from stin_pipe.stin.shards.run_dir import ablation_training
from stin_pipe.stin.shards.schema import Manifest
from stin_pipe.stin.train import Runtime
from stin_pipe.stin.training.config import override
from stin_pipe.stin.training.recipes import resolve_recipe
from stin_pipe.workflows.run.ablation import AblateOptions, table_name


def tiny(stream="spatial", **changes):
    base = {"backbone": "resnet18-w8", "batch_size": 4, "epochs": 2, "flip": False, "val_share": 0.25}
    return override(resolve_recipe("small", stream), **{**base, "num_segments": 3, **changes})


def ablate(run, out, variants, seeds=(0, 1), **more):
    return run_ablation(
        variants,
        seeds=seeds,
        manifest=Manifest.load(run / "extract" / "manifest.json"),
        extract_dir=run / "extract",
        out_dir=out,
        split="1",
        runtime=Runtime(device="cpu", tensorboard=False),
        **more,
    )


@pytest.fixture(scope="module")
def ablated(tiny_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("ablated")
    variants = named_variants(tiny(), ("plain", "inject"))
    return out, variants, ablate(tiny_run, out, variants)


def test_each_variant_has_each_seed_and_its_own_settings(ablated):
    out, _, table = ablated
    assert [row.variant for row in table.rows] == ["spatial-plain", "spatial-inject"]
    assert [list(row.by_seed) for row in table.rows] == [[0, 1], [0, 1]]
    assert (table.judge, table.num_judged) == ("held-out", 3)
    for row, difference in zip(table.rows, ("none", "inject"), strict=True):
        for seed in (0, 1):
            found = json.loads((out / row.variant / f"seed{seed}" / "config.json").read_text())["config"]
            assert (found["seed"], found["stream"]["difference"]) == (seed, difference)
    plain, injected = table.rows
    assert plain.mean_aux is None and injected.mean_aux is not None
    assert plain.difference is None and injected.difference is not None
    tops = [[item.top1 for item in row.by_seed.values()] for row in table.rows]
    assert injected.mean == np.mean(tops[1])
    assert injected.std == pytest.approx(np.std(tops[1], ddof=1))
    assert injected.difference.mean == pytest.approx(np.mean(tops[1]) - np.mean(tops[0]))
    assert json.loads(json.dumps(table.to_json()))["rows"][1]["base"] == "spatial-plain"


def test_judged_as_the_training_was_validated_last(ablated):
    out, _, table = ablated
    lines = [
        json.loads(line)
        for line in (out / "spatial-inject" / "seed1" / "metrics.jsonl").read_text().splitlines()
    ]
    last = [line for line in lines if line["kind"] == "val"][-1]
    expected = Judgement(top1=last["top1"], main_top1=last["main_top1"], aux_top1=last["aux_top1"])
    assert table.rows[1].by_seed[1] == expected


def test_a_second_call_trains_only_what_is_new(ablated, tiny_run):
    out, variants, table = ablated
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("result.json")}
    steps = []
    more = ablate(tiny_run, out, variants, seeds=(0, 1, 2), on_event=steps.append)
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert len(list(out.rglob("result.json"))) == 6
    assert more.rows[1].by_seed[0] == table.rows[1].by_seed[0]
    assert {step.step for step in steps if hasattr(step, "step")} == set(range(1, 5))


def test_the_test_list_is_read_only_when_asked(ablated, tiny_run, monkeypatch):
    out, variants, _ = ablated
    assert not list(out.rglob("test.npz"))
    table = ablate(tiny_run, out, variants, judge="test", protocol=TestProtocol(num_segments=3, num_crops=1))
    assert (table.judge, table.num_judged) == ("test", 6)
    assert len(list(out.rglob("test.npz"))) == 4


def test_nothing_held_out_is_told(tiny_run, tmp_path):
    variants = named_variants(tiny(val_share=0.0, epochs=1), ("plain",))
    with pytest.raises(StinPipeError, match=r"nothing is held out .* raise val_share"):
        ablate(tiny_run, tmp_path, variants)


def test_the_first_variant_of_each_stream_is_its_base():
    streams = {"spatial-plain": "spatial", "spatial-loss": "spatial"}
    streams |= {"temporal-plain": "temporal", "temporal-cbam": "temporal"}
    found = {
        name: {0: Judgement(top1=0.1 * place, main_top1=0.0, aux_top1=None)}
        for place, name in enumerate(streams)
    }
    rows = tabulate(streams, found, judge="held-out", split="1", num_judged=9).rows
    assert [row.base for row in rows] == ["spatial-plain"] * 2 + ["temporal-plain"] * 2
    assert [row.difference and round(row.difference.mean, 6) for row in rows] == [None, 0.1, None, 0.1]
    assert rows[1].std is None


def test_paired_differences_by_hand():
    found = paired_difference({0: 0.5, 1: 0.7, 2: 0.6, 9: 0.0}, {0: 0.4, 1: 0.7, 2: 0.8, 8: 1.0})
    assert (found.num_seeds, found.num_better, found.num_equal) == (3, 1, 1)
    assert found.mean == pytest.approx(-0.1 / 3)
    assert found.std == pytest.approx(np.std([0.1, 0.0, -0.2], ddof=1))
    # Of the eight ways to swap, the sums are ±0.3, ±0.1 twice each: all are at least 0.1 from zero.
    assert found.p_value == 1.0
    assert paired_difference(dict.fromkeys(range(5), 0.9), dict.fromkeys(range(5), 0.2)).p_value == 2 / 32
    with pytest.raises(ValueError, match="no seed in common"):
        paired_difference({0: 1.0}, {1: 1.0})


def test_the_swap_test_of_many_seeds_agrees_with_the_exact_one(monkeypatch):
    generator = np.random.default_rng(0)
    differences = generator.normal(0.4, 1, 16)
    exact = stin_pipe.stin.results.ablation_table._swap_test(differences)
    brute = [
        abs(np.dot(signs, differences)) >= abs(differences.sum()) - 1e-9
        for signs in itertools.product((1, -1), repeat=16)
    ]
    assert exact == pytest.approx(np.mean(brute))
    monkeypatch.setattr(stin_pipe.stin.results.ablation_table, "_MAX_EXACT_SEEDS", 3)
    assert stin_pipe.stin.results.ablation_table._swap_test(differences) == pytest.approx(exact, abs=0.03)
    assert stin_pipe.stin.results.ablation_table._swap_test(np.zeros(9)) == 1.0


def test_wrong_arguments_are_refused(tiny_run, tmp_path):
    with pytest.raises(ValueError, match="unknown variant 'sagan' of the spatial stream; known: plain, loss"):
        named_variants(tiny(), ("sagan",))
    with pytest.raises(ValueError, match="it names a file or folder"):
        Variant(name="../x", config=tiny())
    with pytest.raises(ValueError, match="each once"):
        ablate(tiny_run, tmp_path, named_variants(tiny(), ("plain",)), seeds=(1, 1))


def test_the_splits_have_folders_of_their_own_and_earlier_trainings_keep_theirs(tmp_path):
    assert ablation_training(tmp_path / "a", split="1", seed="seed0") == tmp_path / "a" / "seed0"
    assert ablation_training(tmp_path / "a", split="2", seed="seed0") == tmp_path / "a" / "split2" / "seed0"
    (tmp_path / "a" / "seed0").mkdir(parents=True)
    (tmp_path / "a" / "seed0" / "config.json").write_text('{"split": "2"}')
    assert ablation_training(tmp_path / "a", split="2", seed="seed0") == tmp_path / "a" / "seed0"
    assert ablation_training(tmp_path / "a", split="1", seed="seed0") == tmp_path / "a" / "split1" / "seed0"


def test_a_table_has_a_name_of_its_own():
    def name(given, split="1", variant="plain"):
        return table_name(AblateOptions(name=given, split=split), [Variant(name=variant, config=tiny())])

    assert (name(None), name(None, split="2"), name("mine", split="2")) == (
        "ablation",
        "ablation-split2",
        "mine",
    )
    for bad in ("../run", "a/b", "", ".lock"):
        with pytest.raises(ValueError, match=r"--name must be letters, digits, .* got"):
            name(bad)
    with pytest.raises(ValueError, match="'lock' is taken by the lock"):
        name("lock")
    for variant in ("lock.json", "mine.json", "mine.png"):
        with pytest.raises(
            ValueError, match=f"the variant '{variant}' has the name of a file of the ablation"
        ):
            name("mine", variant=variant)


def test_a_training_on_another_list_is_not_compared(ablated, tiny_run, tmp_path):
    out, variants, _ = ablated
    shutil.copytree(out, tmp_path / "out")
    path = tmp_path / "out" / "spatial-plain" / "seed0" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"training_list": "0" * 16}))
    with pytest.raises(StinPipeError, match=r"seed0 holds a training on another list .* delete that folder"):
        ablate(tiny_run, tmp_path / "out", variants)
