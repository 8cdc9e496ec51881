"""Folders of the published code in the report: columns, methods, what the user tells of them, published figures."""

import csv
import json

import pytest
from helpers.made_runs import make_run
from helpers.published_runs import HEADINGS, make_published, method_of_script, published_state, write_log
from helpers.scripts import assert_refused, assert_runs, run_here

from reporting.charts import dots
from reporting.groups import group
from reporting.headline import headline
from reporting.logs import read_log
from reporting.published_code import published_method
from reporting.runs import find_runs
from reporting.summaries import STATISTICS

CIFAR = {"recipe": "train_cifar_fix_cossl", "dataset": "cifar10", "imb_ratio_l": 100, "imb_ratio_u": 100}
CIFAR |= {"num_max": 1500, "ratio": 2, "max_lam": 0.6, "start_epoch": 401}
FOOD = {"recipe": "train_food_fix_cossl", "imb_ratio_l": 50, "imb_ratio_u": 50, "num_max": 250, "ratio": 2}
FOOD |= {"max_lam": 0.6, "tau": 0.9, "start_epoch": 801, "epochs": 200}
SMALL = {"recipe": "train_small_imagenet127_fix_cossl", "img_size": 32, "max_lam": 0.6, "start_epoch": 401}
# What our runs of these scripts have for arguments, besides those that the user tells of the published ones.
OURS = {
    "food101": {"depth": 50, "lr": 0.04, "ema_decay": 0.9, "lr_tfe": 0.04, "warm_tfe": 5, "img_size": 224},
    "small_imagenet127": {"width": 64},
}
RECALL = ("train_food_fix_cossl", "train_small_imagenet127_fix_cossl")


def report(*arguments: object) -> str:
    return assert_runs("report.py", *arguments).stdout


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("|")]


def make_ours(folder, told, dataset, **changed):
    """A run of ours with these arguments and no others that decide what data it saw."""
    arguments = OURS[dataset] | told | {"dataset": dataset}
    make_run(folder, level=60, start=arguments.pop("start_epoch"), **arguments, **changed)
    summary = json.loads((folder / "summary.json").read_text())
    for name in {"num_max", "ratio", "imb_ratio_l", "imb_ratio_u"} - told.keys():
        del summary["arguments"][name]
    (folder / "summary.json").write_text(json.dumps(summary))


def figures_of(out) -> list[dict[str, str]]:
    """The lines of figures.csv with the mean of the last epochs."""
    with (out / "figures.csv").open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row["statistic"] == STATISTICS["last_20_mean"]]


@pytest.mark.parametrize("script", HEADINGS)
def test_each_scripts_folder_is_read_by_its_real_columns(script, tmp_path):
    """Mean of epochs 25 to 30 in percent; the method by columns and keys; the curves in the units of ours."""
    folder = make_published(tmp_path / "old", script)
    (run,) = find_runs([tmp_path])
    assert (run.status, run.problems) == ("published code", [])
    assert run.about["method"] == f"{method_of_script(script)} (published code)"
    columns = HEADINGS[script].split("|")
    expected = {
        "top1": None if script in RECALL else 79.75,
        "balanced": 39.75 if script in RECALL or "Avg. Recall" in columns else None,
        "gm": 29.75 if "Test GM." in columns else None,
    }
    found = {name: run.figures["last_20_mean"][name] for name in expected}
    assert found == {name: value if value is None else pytest.approx(value) for name, value in expected.items()}
    assert run.columns["epoch"] == list(range(1, 31))
    assert run.columns["acc_u"][-1] == pytest.approx(0.9 - 0.1 / 30, abs=1e-6)
    assert len(run.columns) == len(columns) + 1  # none unnamed, none twice
    assert not any(name in columns for name in run.columns)
    row, *_ = figures_of_report(folder, tmp_path)
    assert row["method"] == run.about["method"]


def figures_of_report(folder, tmp_path):
    text = report(folder, "--out", tmp_path / "out")
    assert f"{folder}: published code" in text
    return figures_of(tmp_path / "out")


@pytest.mark.parametrize(
    ("script", "method"),
    [
        ("train_cifar_fix", "FixMatch"),
        ("train_cifar_mix", "MixMatch or ReMixMatch"),
        ("train_cifar_remix_cossl", "MixMatch+CoSSL or ReMixMatch+CoSSL"),
        ("train_food_fix_cossl", "FixMatch+CoSSL"),
    ],
)
def test_a_log_alone_tells_what_it_can(script, method, tmp_path):
    write_log(tmp_path / "log.txt", script)
    (run,) = find_runs([tmp_path])
    assert (run.about["method"], run.problems) == (f"{method} (published code)", ["no checkpoint"])


@pytest.mark.parametrize(
    ("script", "method"),
    [
        ("train_cifar_fix", "FixMatch or MixMatch"),
        ("train_cifar_mix_cossl", "FixMatch+CoSSL or MixMatch+CoSSL"),
        ("train_cifar_remix", "ReMixMatch"),
        ("train_cifar_remix_cossl", "ReMixMatch+CoSSL"),
        ("train_cifar_remix_crest", "ReMixMatch+CReST+"),
        ("train_small_imagenet127_fix", "FixMatch"),
        ("train_food_fix", "FixMatch"),
    ],
)
def test_a_checkpoint_alone_tells_what_it_can(script, method):
    assert published_method(published_state(script), {}) == method


def test_a_checkpoint_without_steps_tells_its_stage():
    state = published_state("train_cifar_fix") | {"optimizer": {}}
    assert published_method(state, {}) == "pre-training"
    assert published_method(state | {"ema_teacher": {}}, {}) == "CoSSL"
    assert published_method({}, {}) == "unknown method"


def test_of_crests_generations_the_last_counts(tmp_path):
    """Whatever its number; its own checkpoint, not the first one's, is looked for."""
    folder = make_published(tmp_path / "old", "train_cifar_fix_crest")
    for generation, epochs in ((2, 3), (10, 20)):
        write_log(folder / f"log_gen{generation}.txt", "train_cifar_fix_crest", epochs)
    (run,) = find_runs([tmp_path])
    assert (len(run.columns["epoch"]), run.problems) == (20, ["no checkpoint"])
    (folder / "log_gen10.txt").write_text("Test Acc.\t\n")
    assert_refused(run_here("report.py", folder, "--out", tmp_path / "none"), "log_gen10.txt has no whole line")


def test_a_low_percentage_is_no_share(tmp_path):
    """A pre-training that has collapsed to chance, of 101 classes; a run without numbers."""
    for name, cell in (("low", "0.990099"), ("none", "nan")):
        (tmp_path / name).mkdir()
        log = tmp_path / name / "log.txt"
        write_log(log, "train_food_fix", 0)
        log.write_text(log.read_text() + "\t".join([*["0.5"] * 7, cell, "0.009900"]) + "\t\n")
        columns, *_ = read_log(log)
        assert ("top1" in columns, "balanced" in columns, columns["gm"]) == (True, False, [pytest.approx(0.99)])
    assert read_log(tmp_path / "low" / "log.txt")[0]["top1"] == [0.990099]


def test_a_log_without_accuracies_is_refused(tmp_path):
    run = make_published(tmp_path / "old")
    (run / "log.txt").write_text("Train Loss\tTest Loss\t\n1\t2\t\n")
    assert_refused(run_here("report.py", run, "--out", tmp_path / "none"), "its log has no accuracies")


def test_what_the_user_tells_of_the_published_code(tmp_path):
    """Without arguments no row is the best; with them seeds, setting and published figure are known."""
    folders = [make_published(tmp_path / "old" / str(seed)) for seed in (1, 2)]
    report(tmp_path / "old", "--out", tmp_path / "out")
    assert "**" not in (tmp_path / "out" / "tables.md").read_text()
    assert [row["n"] for row in figures_of(tmp_path / "out")] == ["1"] * 2
    make_run(tmp_path / "old" / "ours", level=80)
    for seed, folder in enumerate(folders, 1):
        (folder / "arguments.json").write_text(json.dumps(CIFAR | {"manualSeed": seed}))
    report(tmp_path / "old", "--out", tmp_path / "out")
    theirs, ours = figures_of(tmp_path / "out")
    assert (theirs["method"], theirs["seeds"]) == ("FixMatch+CoSSL (published code)", "1 2")
    assert (theirs["dataset"], theirs["setting"]) == (ours["dataset"], ours["setting"])
    assert theirs["top1_mean"] == theirs["balanced_mean"] != ""  # the test set is balanced
    assert theirs["published_mean"] == "83.2" and "budget" not in theirs["spread"]
    assert "**80.00**" in (tmp_path / "out" / "tables.md").read_text()
    for content, words in (
        ("{", "not readable JSON"),
        ('{"ratio": "two"}', "its argument ratio is damaged"),
        ("[1]", "its content is damaged"),
        ('{"lr": [1]}', "its content is damaged"),
        ('{"start_epoch": "x"}', "its argument start_epoch is damaged"),
    ):
        (folders[0] / "arguments.json").write_text(content)
        assert f"{folders[0]}: published code; arguments.json " in report(folders[0], "--out", tmp_path / "out")
        assert words in find_runs([folders[0]])[0].problems[0]


def test_a_recipe_names_method_and_data_set(tmp_path):
    for script in HEADINGS:
        make_published(tmp_path / script, script)
        (tmp_path / script / "arguments.json").write_text(json.dumps({"recipe": f"{script}.py"}))
    for run in find_runs([tmp_path]):
        script = run.folder.rpartition("/")[2]
        assert run.about["method"] == f"{method_of_script(script)} (published code)"
        dataset = {"cifar": None, "food": "food101", "small": "small_imagenet127"}[script.split("_")[1]]
        assert run.arguments.get("dataset") == dataset


@pytest.mark.parametrize(
    ("told", "dataset", "expected"),
    [
        (FOOD, "food101", 49.0),
        (FOOD | {"imb_ratio_l": 100, "imb_ratio_u": 100}, "food101", 40.4),
        (SMALL, "small_imagenet127", 43.7),
        (SMALL | {"img_size": 64}, "small_imagenet127", 54.4),
    ],
)
def test_mean_recalls_are_compared_with_balanced_accuracy(told, dataset, expected, tmp_path):
    """Of the published code's runs, and of ours, whose top-1 is another figure; in tables, chart, CSV and headline."""
    theirs = make_published(tmp_path / "theirs", told["recipe"])
    (theirs / "arguments.json").write_text(json.dumps(told))
    make_ours(tmp_path / "ours", told, dataset, offset=5)
    text = report(tmp_path, "--out", tmp_path / "out")
    rows = {row["folders"].rpartition("/")[2]: row for row in figures_of(tmp_path / "out")}
    for name, measured in (("theirs", 39.75), ("ours", 55)):
        found = [float(rows[name][column]) for column in ("balanced_mean", "published_mean", "difference")]
        assert found == pytest.approx([measured, expected, measured - expected])
        assert rows[name]["published_metric"] == "balanced"
        assert rows[name]["published_source"] == "Fan et al. 2022 (CoSSL)"
    headings = next(cells(line) for line in text.splitlines() if "published" in cells(line))
    assert headings[3:7] == ["top-1", "balanced accuracy", "published", "difference"]
    groups = group(find_runs([tmp_path]))
    assert "top-1" not in headline(groups)
    assert f"FixMatch+CoSSL reaches 55.00 % balanced accuracy on {dataset}, " in headline(groups)
    papers = [[row["paper"] for chart in dots(groups, name, name) for row in chart["rows"]] for name in ("top1", "gm")]
    assert {paper for found in papers for paper in found} == {None}
    ((chart,),) = [dots(groups, "balanced", "balanced accuracy")]
    assert [row["paper"] for row in chart["rows"]] == [expected] * 2


def test_a_balanced_test_set_has_one_column_with_the_published_figure(tmp_path):
    """Food-101's, beside our runs, for which the two are equal."""
    theirs = make_published(tmp_path / "theirs", FOOD["recipe"])
    (theirs / "arguments.json").write_text(json.dumps(FOOD))
    make_ours(tmp_path / "ours", FOOD, "food101", offset=0)
    text = report(tmp_path, "--out", tmp_path / "out")
    headings = next(cells(line) for line in text.splitlines() if "published" in cells(line))
    assert headings[3:6] == ["top-1 = balanced accuracy", "published", "difference"]
    line = next(line for line in text.splitlines() if "(published code" in line and "49.00" in line)
    assert cells(line)[3:5] == ["39.75", "49.00"]
    ((chart,),) = [dots(group(find_runs([tmp_path])), "top1", "top-1")]
    assert [row["paper"] for row in chart["rows"]] == [49.0] * 2


def test_the_papers_table_has_the_papers_metric(tmp_path):
    for size in (32, 64):
        make_ours(tmp_path / str(size), SMALL | {"img_size": size}, "small_imagenet127", offset=5)
    text = report(tmp_path, "--out", tmp_path / "out")
    first, *_ = [part for part in text.split("\n\n") if part.startswith("|")]
    assert "Balanced accuracy in percent" in text
    assert [cell.strip() for cell in first.splitlines()[-1].split("|")][2:4] == ["55.00 (n = 1)", "43.70"]
