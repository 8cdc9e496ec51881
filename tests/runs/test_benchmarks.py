"""The benchmarks run, and what they call equal work is equal work."""

import importlib
import json
import re
from collections import Counter

import pytest
import torch
from helpers.scripts import FIX_COSSL, ROOT, TINY, assert_runs, run_script, steps, summary
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import schedule_curves
from benchmarks.launches import counted_step
from benchmarks.limit import limit
from benchmarks.linear_probe import probe
from benchmarks.recipe_steps import RECIPES, made_up, recipe_step
from training.checkpoint import LATEST

META = torch.device("meta")


class Passes(TorchDispatchMode):
    """Counts the networks' passes by their number of images: forward, and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.forward, self.backward, self.operations = Counter(), Counter(), 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        self.operations += 1
        if name == "convolution" and args[0].shape[1] == 3:
            self.forward[len(args[0])] += 1
        if name == "convolution_backward" and args[1].shape[1] == 3:
            self.backward[len(args[1])] += 1
        return function(*args, **(kwargs or {}))


def small(recipe: str, n: int = 20_000, classes: int = 10):
    flags = ["--gpu", "cpu", "--num_max", 100, "--imb_ratio_l", 5, "--imb_ratio_u", 5, "--depth", 10]
    flags += ["--align"] if "remix" in recipe else []
    return recipe_step(recipe, made_up(n, 100, classes, 8), *flags, device=META)


@pytest.mark.filterwarnings("ignore:.*to a meta parameter")
@pytest.mark.parametrize("recipe", RECIPES)
def test_the_limit_has_the_passes_of_the_step(recipe):
    it = small(recipe)
    with Passes() as step:
        it.train(0)
    with Passes() as bare:
        limit(recipe, it, META)()
    assert (step.forward, step.backward) == (bare.forward, bare.backward)
    assert sum(step.backward.values()) > 0


@pytest.mark.filterwarnings("ignore:.*to a meta parameter")
@pytest.mark.parametrize("recipe", ["train_cifar_fix", "train_cifar_remix_cossl"])
def test_steps_have_as_many_operations_for_any_number_of_images_and_classes(recipe):
    counted = []
    for n, classes in ((4000, 10), (60_000, 10), (60_000, 200)):
        it = small(recipe, n, classes)
        with Passes() as step:
            it.train(0)
        counted.append(step.operations)
    assert len(set(counted)) == 1


@pytest.mark.slow
def test_step_prints_its_table(tmp_path):
    flags = ["--gpu", "cpu", "--depth", 10, "--rounds", 1, "--recipes", "train_cifar_fix", "--out", tmp_path / "x.json"]
    result = run_script("benchmarks/step.py", *flags)
    assert result.returncode == 0, result.stderr
    assert "b/d" in result.stdout and "train_cifar_fix " in result.stdout
    seconds = json.loads((tmp_path / "x.json").read_text())["seconds"]["train_cifar_fix"]
    assert all(len(values) == 1 and values[0] > 0 for values in seconds.values())


@pytest.mark.filterwarnings("ignore:.*to a meta parameter")
@pytest.mark.parametrize(("recipe", "most"), [("train_cifar_fix", 390), ("train_cifar_fix_cossl", 500)])
def test_a_step_asks_few_operations_of_a_gpu(recipe, most):
    """Sums of the logs included; its numbers come in one copy."""
    flags = ["--gpu", "cpu", "--num_max", 100, "--imb_ratio_l", 5, "--imb_ratio_u", 5]
    step, _ = counted_step(recipe, made_up(5000, 100), flags)
    assert (step.operations <= most, step.copies) == (True, 1)


def made_curves(out, name: str, values: dict[float, tuple[float, ...]]) -> None:
    """What finished runs of a candidate leave: balanced accuracies by share, a stage after the other, of seeds 1, 2."""
    for seed in (1, 2):
        for share, figures in values.items():
            for run, value in zip(
                schedule_curves.both_stages(name, share, max(values), seed, out), figures, strict=True
            ):
                run.folder.mkdir(parents=True, exist_ok=True)
                rows = [
                    "epoch\tloss\tbalanced",
                    *(f"{n}\t1\t{value + seed - 2 * (n != run.epochs)}" for n in (1, 2, 4)),
                ]
                (run.folder / "log.txt").write_text("\n".join(rows) + "\n")
                (run.folder / "summary.json").write_text('{"status": "finished"}')


def test_curves_of_schedules_from_what_is_done(tmp_path, monkeypatch, capsys):
    """Of each length's last epoch; nothing that is done is trained once more, and what is missing is a dash."""
    made_curves(tmp_path, "cosine", {0.05: (40.0, 50.0), 0.2: (60.0, 70.0)})
    command = ["x", "--shares", "0.05", "0.2", "--seeds", "1", "2", "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", [*command, "--candidates", "cosine"])
    monkeypatch.setattr(schedule_curves.subprocess, "run", None)
    schedule_curves.main()
    table = """\
| | schedule | 400 + 100 | 1,600 + 400 |
| --- | --- | --- | --- |
| FixMatch | cosine | 41.5 ± 0.7 | 61.5 ± 0.7 |
| FixMatch+CoSSL | cosine | 51.5 ± 0.7 | 71.5 ± 0.7 |
"""
    assert capsys.readouterr().out == (tmp_path / "table.md").read_text() == table
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    started = []
    monkeypatch.setattr(schedule_curves.subprocess, "run", lambda command, **_: started.append(command))
    monkeypatch.setattr("sys.argv", [*command, "--candidates", "published"])
    schedule_curves.main()
    assert "| FixMatch | published | - | - |" in capsys.readouterr().out
    first, *_ = started
    assert first[first.index("--epochs") + 1] == "4"  # a run for both lengths
    second = next(one for one in started if "train_cifar_fix_cossl.py" in one)
    assert second[second.index("--resume") + 1].endswith("published/seed1/until_0.2/checkpoint_1.pth.tar")


@pytest.mark.slow
def test_a_candidate_trains_both_stages(tmp_path):
    flags = ["--digits", "--shares", 0.05, "--seeds", 1, "--candidates", "cosine, 1 : 2", "--out", tmp_path]
    result = run_script("benchmarks/schedule_curves.py", *flags)
    assert result.returncode == 0, result.stderr
    assert re.search(r"\| FixMatch\+CoSSL \| cosine, 1 : 2 \| [\d.]+ \|", result.stdout)
    log = (tmp_path / "cosine_1_to_2" / "seed1" / "until_0.05" / "log.txt").read_text().splitlines()
    assert "lr_factor" in log[0]


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_every_benchmark_finds_what_it_imports(path):
    importlib.import_module(f"benchmarks.{path.stem}")


def test_a_linear_probe_beside_what_a_run_evaluates(pretrained, tmp_path):
    run = tmp_path / "cossl"
    flags = [*TINY, "--epoch", 1, *steps(FIX_COSSL, 4), "--resume", pretrained / LATEST]
    assert_runs(FIX_COSSL, *flags, "--out", run)
    for folder in (pretrained, run):
        evaluated, labelled, true = probe(folder, tmp_path)
        assert evaluated == pytest.approx(summary(folder)["last_epoch"]["balanced"], abs=0.3)
        assert 15 < labelled < true  # features of few steps; six times as many images help
