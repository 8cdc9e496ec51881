"""The report of many runs: aggregation, published figures, tables, bad input, and the page in a browser."""

import csv
import errno
import json
import re
import subprocess
import sys
from html import unescape
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from helpers.browser import CHROMIUM, DRIVER, browser
from helpers.made_runs import make_run
from helpers.own_images import without_permission
from helpers.published_runs import make_published
from helpers.scripts import ROOT, assert_refused, assert_runs, run_here, run_script

from reporting.charts import CURVES, PSEUDO, confusions, epochs, per_class, shifted
from reporting.figures import COLOURS
from reporting.groups import METRICS, group
from reporting.headline import headline
from reporting.logs import read_log
from reporting.means import Figure, difference, standard_error
from reporting.metrics import metrics_of
from reporting.protocol import METHODS, SUCCESSORS, colour_of
from reporting.runs import find_runs
from reporting.summaries import STATISTICS

FILES = ["classes.csv", "figures.csv", "report.html", "tables.md", "tables.tex"]
EVIL = ["</script><script>alert(1)</script>", 'a,"b"\nc', "c|d & 5 % $x_1$", "<b>x</b>", "\\"]
EVIL += ["={cmd}", "+1", "-2", "@x", "\t=3"]


def report(*arguments: object) -> str:
    return assert_runs("report.py", *arguments).stdout


def rows_of(path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_seeds_become_mean_deviation_and_n(tmp_path):
    levels = [82.0, 84.5, 83.1]
    for seed, level in enumerate(levels, 1):
        make_run(tmp_path / "runs" / f"s{seed}", level=level, seed=seed)
    make_run(tmp_path / "runs" / "again", level=10, seed=2, gpu="3", data_root="/elsewhere")
    text = report(tmp_path / "runs", "--out", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == FILES
    last, _, best = rows = rows_of(tmp_path / "out" / "figures.csv")
    assert [row["statistic"] for row in rows] == list(STATISTICS.values())
    assert (last["n"], last["seeds"]) == ("3", "1 2 3")
    # "again" comes first in the order of names, and seed 2 once only.
    seen = np.array([82.0, 10.0, 83.1])
    assert float(last["top1_mean"]) == pytest.approx(seen.mean())
    assert float(last["top1_sd"]) == pytest.approx(seen.std(ddof=1))
    assert float(last["balanced_mean"]) == pytest.approx(seen.mean() - 1)
    assert float(best["top1_mean"]) == pytest.approx(seen.mean() + 0.2)  # half of 5 epochs' rise
    assert f"{tmp_path}/runs/s2: finished; not counted: the same protocol and seed as {tmp_path}/runs/again" in text
    recall = rows_of(tmp_path / "out" / "classes.csv")[3]
    # 20 more than the level for class 0, 4 less with every class, at most 100 and at least 0.
    assert float(recall["recall_mean"]) == pytest.approx(np.mean([90, 18, 91.1]))
    assert recall["labelled"] == "323"


def test_one_seed_has_no_deviation_and_two_classes_no_medium(tmp_path):
    run = make_run(tmp_path / "run", classes=["cat", "dog"], logged=3)
    summary = json.loads((run / "summary.json").read_text())
    summary["last_20_mean"]["medium"] = summary["best"]["medium"] = None
    (run / "summary.json").write_text(json.dumps(summary))
    text = report(run, "--out", tmp_path / "out")
    last, *_ = rows_of(tmp_path / "out" / "figures.csv")
    assert (last["n"], last["top1_sd"], last["medium_mean"]) == ("1", "", "")
    assert re.search(r"\| +1 \| +80\.00 \|", text)
    assert "mean of the last 1 epoch (a fifth of the run, 20 at most), mean ± standard deviation over n seeds" in text


def test_a_short_runs_climb_is_in_no_figure(tmp_path):
    """The report averages the last fifth of the epochs, in tables, charts and words, and names their number; beside it
    stands the last epoch, and the best says on what it was chosen; so too of the published code.
    """
    make_run(tmp_path / "runs" / "short", logged=20)
    make_run(tmp_path / "runs" / "long", "FixMatch", start=0, logged=150)
    out = tmp_path / "out"
    text = report(tmp_path / "runs", "--out", out)
    assert "mean of the last 4 or 20 epochs (a fifth of the run, 20 at most)" in text
    assert "best epoch, chosen on the test set, mean ±" in text
    page = (out / "report.html").read_text()
    assert "last-20" not in page + text and "top-1, mean of the last 4 or 20 epochs" in page
    rows = [row for row in rows_of(out / "figures.csv") if row["folders"].endswith("short")]
    mean, last, best = (float(row["top1_mean"]) for row in rows)
    assert (mean, last, best) == pytest.approx((80, 80.15, 80.15))  # of the epochs 17 to 20, 0.1 more each
    assert [row["epochs_averaged"] for row in rows] == ["4", "", ""]
    about = find_runs([make_published(tmp_path / "published", epochs=25)])[0].about
    assert (about["epochs_averaged"], about["last_20_mean"]["top1"]) == (5, pytest.approx(79.3))  # of 21 .. 25
    assert about["last_epoch"]["top1"] == pytest.approx(79.5)


def test_a_summary_without_its_last_epoch_is_read(tmp_path):
    run = make_run(tmp_path / "run")
    summary = json.loads((run / "summary.json").read_text())
    del summary["last_epoch"]
    (run / "summary.json").write_text(json.dumps(summary))
    assert "| –" in report(run, "--out", tmp_path / "out").replace("  ", "")


def test_runs_that_differ_are_rows_that_say_in_what(tmp_path):
    make_run(tmp_path / "a", tau=0.95)
    make_run(tmp_path / "b", tau=0.8)
    make_run(tmp_path / "c", tau=0.8, start=101)
    make_run(tmp_path / "d", "FixMatch+CoSSL, cRT", classifier="crt")
    make_run(tmp_path / "e", amp=False)  # as one that lacks the flag
    make_run(tmp_path / "f", imb_ratio_u=-100)
    groups = group(find_runs([tmp_path]))
    assert [one.name for one in groups] == [
        "FixMatch+CoSSL (co-learned from epoch 401, tau 0.95)",
        "FixMatch+CoSSL (co-learned from epoch 101, tau 0.8)",
        "FixMatch+CoSSL (co-learned from epoch 401, tau 0.8)",
        "FixMatch+CoSSL (co-learned from epoch 401, tau 0.95)",
        "FixMatch+CoSSL, cRT",
    ]
    assert groups[0].setting == "γ 100, unlabelled -100, num_max 1500, ratio 2"
    assert {one.setting for one in groups[1:]} == {"γ 100, num_max 1500, ratio 2"}


REVERSED = {
    "disjoint": [30, 50, 83, 139, 232, 387, 646, 1078, 1798, 3000],
    "included": [1530, 949, 622, 462, 425, 503, 715, 1119, 1823, 3015],
}


def with_counts(run: Path, counts: list[int] | None) -> None:
    about = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(about | {"unlabelled_counts": counts}))


def test_a_reversed_set_is_named_by_its_counts(tmp_path):
    """With the labelled images and without are two tables; two spellings of one set are seeds of one row."""
    for kind, counts in REVERSED.items():
        for seed, flags in enumerate([{"imb_ratio_u": -100}, {"imb_ratio_u": 100, "order": "reversed"}], 1):
            with_counts(make_run(tmp_path / f"{kind}{seed}", seed=seed, unlabelled=kind, **flags), counts)
    groups = group(find_runs([tmp_path]))
    assert [(one.setting, one.n, one.seeds, one.paper) for one in groups] == [
        (f"γ 100, unlabelled {'/'.join(map(str, REVERSED[kind]))} {words}, num_max 1500, ratio 2", 2, [1, 2], None)
        for kind, words in (
            ("included", "(largest/smallest 7.09), labelled images included"),
            ("disjoint", "(largest/smallest 100), labelled images left out"),
        )
    ]
    text = report(tmp_path, "--out", tmp_path / "out")
    assert all("/".join(map(str, counts)) in text for counts in REVERSED.values())


def test_rows_of_one_table_say_whether_the_labelled_images_are_included(tmp_path):
    """They are no seeds of one another. What learns from labelled images alone has no such set."""
    make_run(tmp_path / "a", "FixMatch", seed=1, unlabelled="included")
    make_run(tmp_path / "b", "FixMatch", seed=2, unlabelled="disjoint", order="consistent")
    make_run(tmp_path / "c", "MixMatch", seed=1, unlabelled="disjoint")
    make_run(tmp_path / "d", "supervised", seed=1, unlabelled="included")
    make_run(tmp_path / "e", "ReMixMatch", seed=1)  # doesn't tell
    groups = group(find_runs([tmp_path]))
    assert {one.setting for one in groups} == {"γ 100, num_max 1500, ratio 2"}
    assert sorted((one.name, one.n) for one in groups) == [
        ("FixMatch (labelled images included)", 1),
        ("FixMatch (labelled images left out)", 1),
        ("MixMatch (labelled images left out)", 1),
        ("ReMixMatch", 1),
        ("supervised", 1),
    ]


def test_where_all_runs_agree_no_name_tells_of_the_labelled_images(tmp_path):
    for i, method in enumerate(("FixMatch", "FixMatch+CoSSL")):
        make_run(tmp_path / str(i), method, unlabelled="included")
    assert sorted(one.name for one in group(find_runs([tmp_path]))) == ["FixMatch", "FixMatch+CoSSL"]


def test_orders_of_many_classes_are_told_apart(tmp_path):
    """Whose first and last counts may be alike."""
    ends, counts = ("0,1,2", "11"), [40, 30, 20, *[10] * 8, 4]
    for i, middle in enumerate(("3,4,5,6,7,8,9,10", "4,3,5,6,7,8,9,10")):
        order = f"{ends[0]},{middle},{ends[1]}"
        with_counts(make_run(tmp_path / str(i), seed=i, classes=12, unlabelled="disjoint", order=order), counts)
    groups = group(find_runs([tmp_path]))
    assert {one.setting for one in groups} == {
        "γ 100, unlabelled 40 to 4 (largest/smallest 10), labelled images left out, num_max 1500, ratio 2"
    }
    assert {one.name for one in groups} == {
        "FixMatch+CoSSL (order 0,1,2,3,4,5,6,7,8,9,10,11)",
        "FixMatch+CoSSL (order 0,1,2,4,3,5,6,7,8,9,10,11)",
    }


@pytest.mark.parametrize(
    ("method", "changed", "expected"),
    [
        ("FixMatch+CoSSL", {"unlabelled": "included", "order": "consistent"}, 83.2),
        ("FixMatch+CoSSL", {"unlabelled": "disjoint"}, None),
        ("MixMatch+CoSSL", {"unlabelled": "disjoint"}, 76.4),
        ("MixMatch+CoSSL", {"unlabelled": "included"}, None),
        ("FixMatch+CoSSL", {"order": "1,0,2,3,4,5,6,7,8,9"}, None),
    ],
)
def test_published_figures_are_of_the_published_unlabelled_set(method, changed, expected, tmp_path):
    make_run(tmp_path / "run", method, **changed)
    (one,) = group(find_runs([tmp_path]))
    assert (one.paper.figure.mean if one.paper else None) == expected


def test_stl10_has_no_flags_of_an_unlabelled_tail(tmp_path):
    for seed, ratio in ((1, 2.0), (2, 3.0)):
        make_run(tmp_path / str(seed), seed=seed, dataset="stl10", num_max=150, imb_ratio_l=10, ratio=ratio)
    (one,) = group(find_runs([tmp_path]))
    assert (one.setting, one.n) == ("γ 10, num_max 150", 2)


def test_own_images_have_no_long_tail(tmp_path):
    """Which these flags don't make; folders of two sizes aren't compared."""
    for size in (16, 24):
        make_run(tmp_path / str(size), dataset="folder", data_root="/x/birds", img_size=size, ratio=size)
    groups = group(find_runs([tmp_path]))
    assert [(one.dataset, one.setting) for one in groups] == [
        ("folder birds: 10 classes, 3720 labelled", "16 pixels"),
        ("folder birds: 10 classes, 3720 labelled", "24 pixels"),
    ]


def test_data_sets_are_told_apart_by_what_is_in_them(tmp_path):
    """Never by the name of a folder: others of the same name, and the same one after it has grown, have tables of their
    own; a copy under another name is the same data set.
    """
    own = {"dataset": "folder", "data_root": "/a/images"}
    make_run(tmp_path / "runs" / "1", level=70, **own)
    make_run(tmp_path / "runs" / "2", "FixMatch", level=60, **own | {"data_root": "/copy/birds"})
    make_run(tmp_path / "runs" / "3", level=80, classes=[f"other {c}" for c in range(10)], **own)
    make_run(tmp_path / "runs" / "4", level=90, num_max=1600, **own)
    groups = group(find_runs([tmp_path / "runs"]))
    name = "folder images: 10 classes, 3720 labelled"
    assert [(one.dataset, one.runs[0].folder[-1]) for one in groups] == [
        (name, "2"),
        (name, "1"),
        (f"{name} (2)", "3"),
        ("folder images: 10 classes, 3967 labelled", "4"),
    ]
    text = report(tmp_path / "runs", "--out", tmp_path / "out")
    assert text.count("\n## ") + text.startswith("## ") == 3
    assert [row["dataset"] for row in rows_of(tmp_path / "out" / "figures.csv")][::3] == [g.dataset for g in groups]


def test_difference_against_the_spread():
    paper = Figure(83.2, 0.49, 3)
    assert standard_error(Figure(82, 0.3, 3), paper) == pytest.approx(np.sqrt(0.3**2 / 3 + 0.49**2 / 3))
    assert standard_error(Figure(82, None, 1), paper) == pytest.approx(0.49 * np.sqrt(1 + 1 / 3))
    assert standard_error(Figure(82, 0.3, 2), Figure(49, None, 1)) == pytest.approx(0.3 * np.sqrt(1 / 2 + 1))
    assert difference(Figure(83.8, 0.3, 3), paper, "") == "+0.60 (within ±0.66)"
    assert difference(Figure(82.4, 0.3, 3), paper, "") == "-0.80 (outside ±0.66)"
    assert difference(Figure(83.16, 0.3, 3), paper, "") == "-0.04 (within ±0.66)"
    assert difference(Figure(50, None, 1), Figure(49, None, 1), "") == "+1.00 (spread not known)"
    assert difference(Figure(83.1999, 0.3, 3), paper, "").startswith("+0.00 ")  # not -0.00
    assert difference(Figure(70, 1, 3), paper, "epochs 4, not 100").endswith("; other budget: epochs 4, not 100)")


@pytest.mark.parametrize(("points", "word"), [(0.66342, "within"), (0.66343, "outside"), (0.67, "outside")])
def test_within_or_outside_is_decided_before_rounding(points, word):
    """And the printed numbers agree with it."""
    paper = Figure(83.2, 0.49, 3)  # 2 standard errors: 0.663425...
    text = difference(Figure(83.2 + points, 0.3, 3), paper, "")
    shown, mark, limit = re.fullmatch(r"\+(\d\.\d\d+) \((\w+) ±(\d\.\d\d+)\)", text).groups()
    assert mark == word
    assert (float(shown) <= float(limit)) == (word == "within")


@pytest.mark.parametrize(
    ("changed", "expected", "budget"),
    [
        ({}, 83.2, ""),
        ({"imb_ratio_l": 150, "imb_ratio_u": 150}, 80.3, ""),
        ({"epochs": 4}, 83.2, "epochs 4, not 100"),
        ({"val_iteration": 50, "start": 101}, 83.2, "steps per epoch 50, not 500, epochs of pre-training 101, not 401"),
        ({"imb_ratio_u": -100}, None, ""),
        ({"imb_ratio_l": 40, "imb_ratio_u": 40}, None, ""),
        ({"num_max": 1000}, None, ""),
        ({"ratio": 1.0}, None, ""),
        ({"width": 1}, None, ""),
        ({"max_lam": 0.8}, None, ""),
        ({"classifier": "crt"}, None, ""),
        ({"method": "FixMatch", "start": 0}, 71.5, "epochs 100, not 500"),
        ({"method": "FixMatch", "start": 0, "epochs": 500}, 71.5, ""),
        ({"method": "MixMatch", "start": 0, "epochs": 500, "lambda_u": 75}, 64.8, ""),
        ({"method": "MixMatch", "start": 0, "epochs": 500, "lambda_u": 100}, None, ""),
        ({"method": "ReMixMatch", "start": 0, "epochs": 500, "align": True}, None, ""),
        ({"method": "supervised", "start": 0}, None, ""),
        ({"method": "FixMatch+another"}, None, ""),
        ({"dataset": "digits"}, None, ""),
        ({"dataset": "cifar100", "num_max": 150, "imb_ratio_l": 20, "imb_ratio_u": 20}, 53.9, ""),
    ],
    ids=str,
)
def test_published_figures_are_those_of_the_published_protocol(changed, expected, budget, tmp_path):
    (one,) = group(find_runs([make_run(tmp_path / "run", **changed)]))
    assert (one.paper and one.paper.figure.mean) == expected
    assert one.versus.partition("other budget: ")[2] == (f"{budget})" if budget else "")


def test_tables_are_whole_in_every_format(tmp_path):
    """Cells are as many as headings, the best is bold, ties are all bold."""
    for gamma in (50, 100):
        same = {"imb_ratio_l": gamma, "imb_ratio_u": gamma}
        make_run(tmp_path / f"a{gamma}", "FixMatch", level=70, start=0, **same)
        make_run(tmp_path / f"b{gamma}", level=80, **same)
        make_run(tmp_path / f"c{gamma}", "ReMixMatch+CoSSL", level=80, align=True, **same)
    text = report(tmp_path, "--out", tmp_path / "out")
    markdown = (tmp_path / "out" / "tables.md").read_text()
    assert markdown.strip() in text
    tables = [part.splitlines() for part in markdown.split("\n\n") if part.startswith("|")]
    assert len(tables) == 7
    for table in tables:
        assert len({line.count("|") for line in table}) == 1
        assert set(table[1]) == set("|-: ")
    overview = [[cell.strip() for cell in line.strip("|").split("|")] for line in tables[0]]
    paper = ["published", "difference"]
    assert overview[0] == ["method", "γ 50", *paper, "γ 100", *paper, "mean", "worst"]
    by_name = {row[0]: row[1:] for row in overview[2:]}
    budget = "(spread not known; other budget: epochs 100, not 500)"
    assert by_name["FixMatch"][:3] == ["70.00 (n = 1)", "79.20", f"-9.20 {budget}"]
    whose = "published by Fan et al. 2022 (CoSSL): ReMixMatch+CoSSL, FixMatch+CoSSL"
    assert f"; {whose}; published by Lee and Kim 2024 (CDMAD): FixMatch\n" in text
    assert by_name["FixMatch+CoSSL"][:3] == ["**80.00 (n = 1)**", "86.80 ± 0.30", "-6.80 (outside ±0.69)"]
    assert by_name["ReMixMatch+CoSSL"][3] == "**80.00 (n = 1)**"
    assert by_name["ReMixMatch+CoSSL"][-2:] == ["**80.00**"] * 2

    latex = (tmp_path / "out" / "tables.tex").read_text()
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 7
    for tabular in re.findall(r"\\begin\{tabular\}\{(l\w*)\}(.*?)\\end\{tabular\}", latex, re.S):
        lines = [line for line in tabular[1].splitlines() if line.endswith(r"\\")]
        assert {line.count("&") for line in lines} == {len(tabular[0]) - 1}
    assert r"\textbf{80.00 (n = 1)} & 86.80 $\pm$ 0.30" in latex
    assert "γ" not in latex and "±" not in latex and r"num\_max" in latex


def test_over_the_settings_methods_have_a_mean_and_a_worst_if_they_have_all(tmp_path):
    for name, gamma, level in (("FixMatch", 50, 70), ("FixMatch", 100, 60), ("ReMixMatch", 50, 80)):
        make_run(tmp_path / f"{name}{gamma}", name, level=level, start=0, imb_ratio_l=gamma, imb_ratio_u=gamma)
    report(tmp_path, "--out", tmp_path / "out")
    first = next(part for part in (tmp_path / "out" / "tables.md").read_text().split("\n\n") if part[0] == "|")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in first.splitlines()]
    by_name = {row[0]: dict(zip(rows[0], row, strict=True)) for row in rows[2:]}
    assert [by_name["FixMatch"][name] for name in ("mean", "worst")] == ["65.00", "60.00"]
    assert [by_name["ReMixMatch"][name] for name in ("γ 100", "mean", "worst")] == ["–"] * 3


def test_charts_show_what_the_files_hold(tmp_path):
    """Means and ranges over seeds against loops over the files; classes by their number of labelled images."""
    more = {"diagnostics": True, "shifted": True, "imb_ratio_l": -100}
    runs = [make_run(tmp_path / f"s{seed}", level=80 + seed, seed=seed, **more) for seed in (1, 4)]
    groups = group(find_runs([tmp_path]))
    logs = [list(csv.DictReader((run / "log.txt").open(), delimiter="\t")) for run in runs]
    charts = {chart["title"]: chart["lines"][0] for chart in epochs(groups, METRICS | CURVES | PSEUDO)}
    for title, column, unit in (("top-1", "top1", 1), ("used by the loss, of all (mask rate)", "mask", 100)):
        pairs = [[unit * float(row[column]) for row in rows] for rows in zip(*logs, strict=True)]
        line = charts[title]
        assert line["x"] == list(range(402, 427))
        assert line["y"] == pytest.approx([sum(pair) / 2 for pair in pairs], rel=1e-3)
        assert line["low"] == pytest.approx([min(pair) for pair in pairs], rel=1e-3)
        assert line["high"] == pytest.approx([max(pair) for pair in pairs], rel=1e-3)

    files = [np.load(run / "diagnostics.npz") for run in runs]
    classes = {chart["title"]: chart for chart in per_class(groups)}
    assert classes["mask rate, last epoch"]["names"] == [f"class {c}" for c in range(9, -1, -1)]  # the last has most
    assert classes["mask rate, last epoch"]["area"][0] == 1500
    for title, name in (
        ("precision of the pseudo-labels used", "precision"),
        ("recall of the pseudo-labels used", "recall"),
        ("mask rate", "mask_rate"),
    ):
        expected = sum(file[name][-1] for file in files)[::-1] / 2
        assert classes[f"{title}, last epoch"]["lines"][0]["y"] == pytest.approx(expected, rel=1e-3)
    total = files[0]["confusion"] + files[1]["confusion"]
    expected = [[100 * total[i, j] / sum(total[i]) for j in range(9, -1, -1)] for i in range(9, -1, -1)]
    assert np.allclose(confusions(groups)[0]["cells"], expected, atol=0.05)
    assert shifted(groups)[0]["lines"][0]["y"][:2] == [90.5, 89.5]
    single = shifted(group(find_runs([runs[0]])))[0]["lines"][0]
    assert (single["low"][0], single["y"][0], single["high"][0]) == (88, 89, 90)


@pytest.mark.filterwarnings("error")
def test_a_figure_that_one_seed_lacks_is_drawn_of_the_others(tmp_path):
    for seed in (1, 2, 3):
        path = make_run(tmp_path / f"s{seed}", level=80 + seed, seed=seed) / "log.txt"
        rows = [line.split("\t") for line in path.read_text().splitlines()]
        rows[1][5] = "nan"  # top-1
        rows[2][5] = "nan" if seed == 3 else rows[2][5]
        path.write_text("\n".join(map("\t".join, rows)) + "\n")
    (chart,) = epochs(group(find_runs([tmp_path])), {"top1": "top-1"})
    (line,) = chart["lines"]
    first, second, third = ([line[part][i] for part in ("low", "y", "high")] for i in range(3))
    base = 80 + 0.2 - 2.3
    assert first == [None] * 3
    assert second == pytest.approx([base + 1, base + 1.5, base + 2], rel=1e-3)
    assert third == pytest.approx([base + 1.1, base + 2.1, base + 3.1], rel=1e-3)


def test_equal_runs_give_equal_reports(tmp_path):
    make_run(tmp_path / "runs" / "a", diagnostics=True, shifted=True)
    make_run(tmp_path / "runs" / "b", seed=2)
    for name in ("one", "two"):
        report(tmp_path / "runs", "--out", tmp_path / name)
    assert [(tmp_path / "one" / n).read_bytes() for n in FILES] == [(tmp_path / "two" / n).read_bytes() for n in FILES]


def no_json(run):
    (run / "summary.json").write_text("{")


def no_figures(run):
    (run / "summary.json").write_text('{"method": "FixMatch"}')


def words_for_numbers(run):
    path = run / "summary.json"
    path.write_text(re.sub(r'"top1": [\d.]+', '"top1": "many"', path.read_text()))


def short_recall(run):
    summary = json.loads((run / "summary.json").read_text())
    summary["last_20_mean"]["recall"].pop()
    (run / "summary.json").write_text(json.dumps(summary))


def not_a_number(run):
    path = run / "summary.json"
    path.write_text(re.sub(r'"wall_seconds": [\d.]+', '"wall_seconds": NaN', path.read_text()))


def words_for_arguments(run):
    path = run / "summary.json"
    path.write_text(path.read_text().replace('"ratio": 2.0', '"ratio": "two"'))


def of_another_kind(run):
    (run / "summary.json").write_text("[1]")


BROKEN = {
    no_json: "summary.json is not readable JSON",
    no_figures: "summary.json can't be used: it lacks start_epoch, classes, labelled_counts",
    words_for_numbers: "summary.json can't be used: its top1 is damaged",
    short_recall: "summary.json can't be used: its figures are of other classes than its classes",
    not_a_number: "summary.json is not readable JSON",
    words_for_arguments: "summary.json can't be used: its argument ratio is damaged",
    of_another_kind: "summary.json can't be used: its content is damaged",
}


@pytest.mark.parametrize("spoil", BROKEN, ids=lambda spoil: spoil.__name__)
def test_a_broken_run_is_listed_and_the_others_reported(spoil, tmp_path):
    good, bad = (make_run(tmp_path / name, seed=seed) for seed, name in enumerate(("good", "bad")))
    spoil(bad)
    text = report(tmp_path, "--out", tmp_path / "out")
    assert f"{bad}: broken; {BROKEN[spoil]}" in text
    assert [row["folders"] for row in rows_of(tmp_path / "out" / "figures.csv")] == [str(good)] * 3
    assert BROKEN[spoil] in unescape((tmp_path / "out" / "report.html").read_text())
    assert_refused(run_here("report.py", bad, "--out", tmp_path / "none"), "nothing to report", str(bad))
    assert not (tmp_path / "none").exists()


def test_what_is_whole_of_a_log_is_used(tmp_path):
    run = make_run(tmp_path / "run", logged=6)
    path = run / "log.txt"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:3], "3\t0.5\n", lines[4], lines[5], lines[6][:9]]))
    columns, problems, foreign = read_log(path)
    assert (columns["epoch"], problems, foreign) == ([1, 2, 4, 5], ["log.txt: line 4, 7 not whole, left out"], False)
    assert f"{run}: finished; log.txt: line 4, 7 not whole" in report(run, "--out", tmp_path / "out")
    path.write_text("".join(lines)[:-1])  # the last number may have lost digits
    assert read_log(path)[0]["epoch"] == [1, 2, 3, 4, 5]
    path.write_bytes(b"\xff\xfe")
    assert read_log(path)[:2] == ({}, ["log.txt can't be read (UnicodeDecodeError)"])


def test_missing_parts_are_told(tmp_path):
    run = make_run(tmp_path / "run", diagnostics=True, shifted=True)
    for name in ("checkpoint.pth.tar", "log.txt"):
        (run / name).unlink()
    (run / "diagnostics.npz").write_bytes(b"PK")
    (run / "shifted.json").write_text('{"ratios": [1, 2], "top1": [3]}')
    text = report(run, "--out", tmp_path / "out")
    problems = "no checkpoint; no log.txt; diagnostics.npz is not readable; shifted.json can't be used: it lacks epoch"
    assert f"{run}: finished; {problems}" in text
    assert "80.00" in text


def test_shifted_figures_of_few_images_say_so(tmp_path):
    run = make_run(tmp_path / "run", shifted=True)
    (chart,) = shifted(group(find_runs([run])))
    assert (chart["title"], chart["warning"]) == ("top-1 on shifted test sets of cifar10", "")
    found = json.loads((run / "shifted.json").read_text())
    found["images"][:3] = [99, 80, 99]
    (run / "shifted.json").write_text(json.dumps(found))
    (chart,) = shifted(group(find_runs([run])))
    assert chart["warning"] == "fewer than 100 images (down to 80) at 3 of 20 ratios: wide intervals"
    report(run, "--out", tmp_path / "out")
    assert "<title>Report of runs: cifar10</title>" in (tmp_path / "out" / "report.html").read_text()


STALE = [({"epoch": 1}, "epoch 1, not 25"), ({"dataset": "digits"}, "dataset digits, not cifar10")]


@pytest.mark.parametrize(("changed", "words"), STALE)
def test_shifted_figures_of_another_model_are_left_out(changed, words, tmp_path):
    runs = [make_run(tmp_path / f"s{seed}", seed=seed, shifted=True) for seed in (1, 2)]
    found = json.loads((runs[1] / "shifted.json").read_text())
    (runs[1] / "shifted.json").write_text(json.dumps(found | changed))
    first, second = find_runs([tmp_path])
    assert (first.problems, second.shifted) == ([], None)
    assert f"shifted.json is of {words}" in second.problems[0]
    assert "low" in shifted(group([first, second]))[0]["lines"][0]  # of the one that is left, its interval


@pytest.mark.parametrize("status", ["stopped", "running"])
def test_unfinished_runs_are_listed_and_drawn(status, tmp_path):
    """Stopped by a signal, or killed: then nothing holds the folder's lock."""
    make_run(tmp_path / "done", seed=1)
    stopped = make_run(tmp_path / "stopped", seed=2, logged=7, status=status)
    (stopped / ".lock").write_text("process 1 on here\n")
    (tmp_path / "link").symlink_to(stopped)
    text = report(tmp_path, tmp_path / "link", stopped, "--out", tmp_path / "out")
    assert text.count(f"{stopped}: unfinished; stopped after epoch 7 of 100") == 1
    assert "report of 2 runs" in text
    assert {row["n"] for row in rows_of(tmp_path / "out" / "figures.csv")} == {"1"}
    page = (tmp_path / "out" / "report.html").read_text()
    assert "FixMatch+CoSSL (unfinished, seed 2)" in page and "7 of 100" in page
    assert page.count("<dt>version of torch</dt><dd>2.14.1</dd>") == 2
    report(stopped, "--out", tmp_path / "only")  # curves are something to report
    (stopped / "log.txt").unlink()
    text = report(tmp_path, "--out", tmp_path / "out")
    assert f"{stopped}: unfinished; stopped after epoch 7 of 100; no log.txt" in text
    refused = run_here("report.py", stopped, "--out", tmp_path / "none")
    assert_refused(refused, f"{stopped}: unfinished, stopped after epoch 7 of 100, no log.txt")
    (stopped / "summary.json").unlink()
    (stopped / "checkpoint.pth.tar").write_bytes(b"half")
    damaged = "checkpoint.pth.tar: not a readable checkpoint (truncated, or of another program)"
    assert f"{stopped}: broken; no summary.json; {damaged}; no log.txt" in report(tmp_path, "--out", tmp_path / "out")


def test_what_cannot_be_looked_into_is_listed_and_links_are_followed(tmp_path, monkeypatch):
    make_run(tmp_path / "elsewhere" / "run", seed=1)
    make_run(tmp_path / "results" / "here", seed=2)
    for name, target in {"a": "../elsewhere", "b": "../elsewhere/run", "c": "nowhere", "d": "."}.items():
        (tmp_path / "results" / name).symlink_to(target)
    without_permission(tmp_path / "results" / "locked", monkeypatch)
    text = report(tmp_path / "results", "--out", tmp_path / "out")
    assert f"{tmp_path}/results/locked: broken; a folder that can't be read (Permission denied)" in text
    assert f"{tmp_path}/results/c: broken; a link to what isn't there" in text
    assert "report of 4 runs" in text


HOLDS = """
import sys, time
from pathlib import Path
from training.folder import Lock
with Lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.mark.slow
def test_a_run_is_running_while_a_process_holds_its_lock(tmp_path):
    run = make_run(tmp_path / "runs" / "run", logged=7, status="running")
    over = make_run(tmp_path / "runs" / "over", seed=2)  # its summary is written before its process lets go
    command = [sys.executable, "-c", HOLDS]
    holders = [subprocess.Popen([*command, f], cwd=ROOT, stdout=subprocess.PIPE, text=True) for f in (run, over)]
    try:
        assert [holder.stdout.readline() for holder in holders] == ["held\n"] * 2
        text = report(tmp_path / "runs", "--out", tmp_path / "out")
        assert f"{run}: running; after epoch 7 of 100" in text and f"{over}: " not in text
        page = (tmp_path / "out" / "report.html").read_text()
        assert "<b>1</b> running" in page and "<b>1</b> finished" in page
        assert "FixMatch+CoSSL (unfinished, seed 1)" in page
    finally:
        for holder in holders:
            holder.kill()
            holder.wait()
            holder.stdout.close()
    assert f"{run}: unfinished; stopped after epoch 7 of 100" in report(tmp_path / "runs", "--out", tmp_path / "out")


def test_no_checkpoint_of_ours_is_opened(tmp_path, monkeypatch):
    def opened(path, _):
        raise AssertionError(path)

    monkeypatch.setattr("reporting.runs.read_checkpoint", opened)
    monkeypatch.setattr("training.checkpoint.load_archive", opened)
    for status in ("finished", "running", "stopped", "failed"):
        make_run(tmp_path / "runs" / status, status=status, diagnostics=True, shifted=True)
    broken = make_run(tmp_path / "runs" / "broken")
    (broken / "summary.json").write_text("{")
    assert "report of 5 runs" in report(tmp_path / "runs", "--out", tmp_path / "out")
    make_published(tmp_path / "runs" / "published")
    with pytest.raises(AssertionError, match="published"):
        report(tmp_path / "runs", "--out", tmp_path / "out")


def test_failed_runs_are_listed_with_the_reason(tmp_path):
    make_run(tmp_path / "runs" / "done")
    reason = "--lr 9: not a number in step 3; start anew"
    failed = make_run(tmp_path / "runs" / "failed", seed=2, logged=7, status="failed", reason=reason)
    early = make_run(tmp_path / "runs" / "early", seed=3, logged=1, status="failed", reason=reason)
    summary = json.loads((early / "summary.json").read_text())
    none_yet = {"epochs": 0, "epochs_averaged": 0, "last_20_mean": None, "best": None}
    (early / "summary.json").write_text(json.dumps(summary | none_yet))
    for name in ("log.txt", "checkpoint.pth.tar"):
        (early / name).unlink()
    text = report(tmp_path / "runs", "--out", tmp_path / "out")
    assert f"{failed}: failed; stopped after epoch 7 of 100; {reason}" in text
    assert f"{early}: failed; stopped after epoch 0 of 100; {reason}; no checkpoint" in text
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<b>2</b> failed" in page and "7 of 100" in page and '<details class="problems" open>' in page
    refused = run_here("report.py", early, "--out", tmp_path / "none")
    assert_refused(refused, "failed, stopped after epoch 0 of 100, --lr 9", "no checkpoint")


def test_numbers_in_csv_files_are_numbers(tmp_path):
    """Also those with a sign; words about them have their own column."""
    make_run(tmp_path / "run", level=70)
    report(tmp_path / "run", "--out", tmp_path / "out")
    row, *_ = rows_of(tmp_path / "out" / "figures.csv")
    assert (float(row["difference"]), row["spread"]) == (pytest.approx(-13.2), "(outside ±1.13)")


@pytest.mark.parametrize("number", range(len(FILES)))
def test_a_killed_report_leaves_the_old_one_whole(number, tmp_path, monkeypatch):
    """Whichever file it dies at: nothing is renamed before everything is written."""
    make_run(tmp_path / "runs" / "a")
    report(tmp_path / "runs", "--out", tmp_path / "out")
    before = {name: (tmp_path / "out" / name).read_bytes() for name in FILES}
    make_run(tmp_path / "runs" / "b", level=20, seed=2)
    original, calls = Path.write_text, count()

    def dies(path, *arguments, **named):
        if path.parent == tmp_path / "out" and next(calls) == number:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(path, *arguments, **named)

    monkeypatch.setattr(Path, "write_text", dies)
    assert_refused(run_here("report.py", tmp_path / "runs", "--out", tmp_path / "out"), "No space left")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_hostile_names_leave_everything_whole(tmp_path):
    folder = tmp_path / 'a,b "c"\n<img src=x onerror=alert(1)>'
    run = make_run(folder, classes=EVIL, diagnostics=True, dataset="folder", data_root="/x/<i>&|")
    stopped = make_run(tmp_path / "`x`\x1b[31m<img src=x>", status="stopped")
    text = report(tmp_path, "--out", tmp_path / "out")
    assert "\x1b" not in text
    assert [row["class"] for row in rows_of(tmp_path / "out" / "classes.csv")] == EVIL
    assert rows_of(tmp_path / "out" / "figures.csv")[0]["folders"] == str(run)
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<script") == page.count("</script>") == 2
    assert "<img" not in page and "<b>x" not in page and "<i>&" not in page
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])
    assert all(name in str(data) for name in ("</script><script>alert(1)</script>", "<b>x</b>"))
    assert len(re.findall(r"^## ", (tmp_path / "out" / "tables.md").read_text(), re.M)) == 1
    assert stopped.exists()


@pytest.mark.parametrize("kind", ["empty", "missing", "file", "out"])
def test_wrong_folders_are_one_line(kind, tmp_path):
    out = tmp_path / "out"
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("mine")
    if kind == "out":
        run = make_run(tmp_path / "run")
        assert_refused(run_here("report.py", run, "--out", tmp_path / "file"), "--out")
        assert (tmp_path / "file").read_text() == "mine"
        return
    assert_refused(run_here("report.py", tmp_path / kind, "--out", out), str(tmp_path / kind), "give")
    assert not out.exists()


@pytest.mark.slow
def test_as_a_user_starts_it(tmp_path):
    result = run_script("report.py", make_run(tmp_path / "run"), "--out", tmp_path / "out")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines()[-1].endswith(f"report of 1 run: {tmp_path / 'out' / 'report.html'}")
    assert "report.html" in run_here("report.py", "--help").stdout


@pytest.mark.parametrize("path", ["report/report.html", "images/1.png", "predictions.csv"])
def test_git_ignores_what_the_scripts_write_by_default(path):
    ignored = subprocess.run(["git", "check-ignore", "-q", path], cwd=ROOT, check=False).returncode
    if ignored == 128:
        pytest.skip("no git repository")
    assert ignored == 0


def test_the_demo_ends_with_the_report():
    last = (ROOT / "run_demo.sh").read_text().strip().splitlines()[-1]
    assert last == ".venv/bin/python report.py $out/pretrain $out/cossl --out $out/report"
    assert subprocess.run(["bash", "-n", ROOT / "run_demo.sh"], check=False).returncode == 0


def test_the_first_line_says_what_came_out(tmp_path):
    for seed in (1, 2):
        make_run(tmp_path / f"a{seed}", "FixMatch", 70 + seed, seed, start=0)
        make_run(tmp_path / f"b{seed}", level=80 + seed, seed=seed)
    setting = "cifar10, γ 100, num_max 1500, ratio 2"
    words = f"FixMatch+CoSSL reaches 81.50 ± 0.71 % top-1 on {setting}, 10.00 points above FixMatch"
    assert headline(group(find_runs([tmp_path]))) == f"Mean of the last epochs: {words}."
    report(tmp_path, "--out", tmp_path / "out")
    body = (tmp_path / "out" / "report.html").read_text().partition("<h1>")[2]
    assert words in body.splitlines()[1]
    for n, dataset in enumerate(("digits", "fashion_mnist", "food101")):
        make_run(tmp_path / dataset, level=10 + n, dataset=dataset)
    assert headline(group(find_runs([tmp_path]))).endswith("; 1 more below.")
    assert headline([]).startswith("No run")


def test_what_was_tested_on_held_out_images_says_so(tmp_path):
    """Wherever figures are shown; and it never shares a table with what was tested on test images."""
    own = {"dataset": "folder", "data_root": "/x/birds", "holdout": 0.2}
    make_run(tmp_path / "a", "FixMatch", 70, start=0, tested_on="held-out", **own)
    make_run(tmp_path / "b", level=80, tested_on="held-out", **own)
    make_run(tmp_path / "c", level=60, tested_on="test", **own)
    groups = group(find_runs([tmp_path]))
    names = {one.dataset for one in groups}
    counts = sum(groups[0].counts)
    assert names == {
        f"folder birds: 10 classes, {counts} labelled{more}" for more in ("", ", tested on held-out images")
    }
    words = r"FixMatch\+CoSSL reaches 8\d.\d\d % .* on folder birds: .*, tested on held-out images"
    assert re.search(words, headline(groups))
    printed = report(tmp_path, "--out", tmp_path / "out")
    text = (tmp_path / "out" / "tables.md").read_text()
    assert "Figures of held-out images in percent, mean of the last 5 epochs" in text
    assert "Figures of held-out images in percent, best epoch, chosen on held-out images" in text
    assert "Test figures in percent, best epoch, chosen on the test set" in text
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Of the averaged model on held-out images," in page and "Of the averaged model on the test set," in page
    with (tmp_path / "out" / "figures.csv").open() as file:
        best = {row["folders"][-1]: row["statistic"] for row in csv.DictReader(file) if "best" in row["statistic"]}
    chosen = {"a": "held-out images", "b": "held-out images", "c": "the test set"}
    assert best == {name: f"best epoch, chosen on {on}" for name, on in chosen.items()}
    assert "Figures of held-out images" in printed


def test_classes_without_a_held_out_image_are_told(tmp_path):
    """For their recall is not in the mean."""
    own = {"dataset": "folder", "data_root": "/x/birds", "holdout": 0.2, "tested_on": "held-out"}
    summary = make_run(tmp_path / "a", start=0, **own) / "summary.json"
    about = json.loads(summary.read_text())
    summary.write_text(json.dumps(about | {"held_out_counts": [2, 0, 1] + [0] * (len(about["classes"]) - 3)}))
    assert "tested on held-out images of 2 of 10 classes" in headline(group(find_runs([tmp_path])))


def test_on_balanced_test_sets_top1_and_balanced_accuracy_are_shown_once(tmp_path):
    """Also beside a run of the published code, whose balanced accuracy is not known; figures.csv has both."""
    balanced = make_run(tmp_path / "runs" / "a", offset=0)
    for folder in (balanced, make_run(tmp_path / "digits", dataset="digits")):
        (one,) = group(find_runs([folder]))
        assert ("balanced" in metrics_of([one])) == (folder != balanced)
    text = report(tmp_path / "runs", "--out", tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    titles = re.findall(r'"title":"([^"]*(?:balanced|top-1)[^"]*)"', page)
    assert titles == ["top-1 = balanced accuracy, mean of the last 5 epochs", "top-1 = balanced accuracy"]
    assert text.count("balanced accuracy") == text.count("top-1 = balanced accuracy") == 3
    row, *_ = rows_of(tmp_path / "out" / "figures.csv")
    assert row["top1_mean"] == row["balanced_mean"]
    theirs = find_runs([make_published(tmp_path / "published")])
    assert "balanced" not in metrics_of(group([*find_runs([balanced]), *theirs]))


def test_a_method_has_one_colour():
    """Its variants, too; the nine known ones each their own, as on the figures."""
    assert [colour_of(method) for method in METHODS] == list(range(9))
    assert colour_of("FixMatch+CoSSL, cRT") == colour_of("FixMatch+CoSSL (published code)") == 1
    assert colour_of("FixMatch+another") == colour_of("FixMatch") == 0
    assert [colour_of(method) for method in SUCCESSORS] == list(range(2, 9))
    assert colour_of("FixMatch+CReST+, generation 2") == colour_of("FixMatch+CReST+") == 6
    assert colour_of("unknown method") == colour_of("FixMatch+CoSSL or MixMatch+CoSSL (published code)") == 8
    light, *_ = re.findall(r"--c0: .*", (ROOT / "reporting" / "page.css").read_text())
    assert re.findall(r"--c\d: (#\w+);", light) == list(COLOURS)  # the page's are those of pictures


@pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no chromium with chromedriver installed")
def test_the_page_in_a_browser(tmp_path):
    """Charts are drawn, tables sort, series switch; nothing is asked of the network; phones needn't scroll sideways."""
    for seed in (1, 2):
        make_run(tmp_path / f"a{seed}", "FixMatch", 70 + seed, seed, start=0, diagnostics=True, shifted=True)
        make_run(tmp_path / f"b{seed}", level=80 + seed, seed=seed, diagnostics=True, shifted=True)
        make_run(tmp_path / f"c{seed}", level=20 * seed - 17, seed=seed, dataset="digits", epochs=4)
    make_run(tmp_path / "supervised", "supervised", level=75, start=0)
    make_run(tmp_path / "hostile", classes=[*EVIL, "x" * 90], diagnostics=True, dataset="folder", data_root="/d" * 90)
    make_run(tmp_path / "many", classes=100, dataset="cifar100", num_max=150, status="stopped", diagnostics=True)
    report(tmp_path, "--out", tmp_path / "out")
    names = "return [...document.querySelectorAll('table')[0].tBodies[0].rows].map(r => r.cells[0].textContent)"
    click = "document.querySelectorAll('table')[0].tHead.rows[0].cells[{}].firstChild.click();"
    with browser(tmp_path / "profile") as page:
        page.look(1200, 30000)
        page.open(tmp_path / "out" / "report.html")
        before = page.run(names)
        assert page.run(click.format(2) + names) == ["FixMatch+CoSSL", "supervised", "FixMatch"]
        assert page.run("return document.querySelector('[aria-sort]').textContent") == "top-1"
        assert page.run(click.format(2) + names) == ["FixMatch", "supervised", "FixMatch+CoSSL"]
        assert page.run(click.format(0) + names) == sorted(before)
        drawn = "[...document.querySelectorAll('figure')].every(f => f.querySelector('path, circle, image'))"
        assert page.run(f"return {drawn}")
        lines = "return document.querySelector('#s0 [data-chart=\"3\"]').querySelectorAll('.path').length"
        assert page.run(lines) == 3
        assert page.run("document.querySelector('#s0 .legend button').click();" + lines) == 2
        hover = (
            "const s = document.querySelector('#s0 [data-chart=\"3\"] svg'), f = s.getBoundingClientRect();"
            "s.dispatchEvent(new PointerEvent('pointermove', {clientX: f.right - 1, clientY: f.top + 9}));"
            "return document.getElementById('tip').textContent"
        )
        assert "epoch 426" in page.run(hover)
        inside = (
            "return [...document.querySelectorAll('.bar')].map(bar => {"
            "const [b, f] = [bar, bar.closest('svg')].map(e => e.getBoundingClientRect());"
            "return b.width > 0 && b.left >= f.left && b.right <= f.right;})"
        )
        bars = page.run(inside)
        assert len(bars) == 9 and all(bars)  # one of them is of 13 ± 14 percent
        assert "diamond" in page.run("return document.querySelector('#s0 .note').textContent")
        legends = "return [...document.querySelectorAll('.legend button')].map(b => [b.textContent, b.classList[1]])"
        colours = {}
        for name, colour in page.run(legends):
            colours.setdefault(name.partition(" (")[0], set()).add(colour)
        assert {name: len(found) for name, found in colours.items()} == dict.fromkeys(colours, 1)
        assert len(set.union(*colours.values())) == len(colours) == 3
        heat = "return [...document.querySelectorAll('.heat')].map(s => getComputedStyle(s).getPropertyValue('--c'))"
        assert len(page.run(heat)) == 4 and len(set(page.run(heat))) == 1
        words = page.run("return document.querySelector('.heat').textContent")
        assert all(text in words for text in ("predicted class", "true class", "0 %", "100 %"))
        starts = (
            "return [...document.querySelectorAll('figure:not([hidden])')].filter(f => f.querySelector('.break'))"
            ".every(f => f.querySelector('em'))"
        )
        assert page.run(starts)
        axis = "return document.querySelector('#s0 [data-chart=\"{}\"]').textContent"
        assert "axis from 6" in page.run(axis.format(0)) and "axis from" not in page.run(axis.format(9))
        shut = "document.querySelector('#s0 summary').click();"
        shown = "return document.querySelector('#s0 figure').checkVisibility()"
        assert page.run(shown)
        assert not page.run(shut + shown)
        page.run("document.querySelector('nav a').click(); location.hash = '#s0'")
        assert page.run(shown)
        matrix = "return [...document.querySelectorAll('.heat')].map(s => s.querySelectorAll('text').length)"
        # Names, titles and scale; numbers, too, of 10 classes and the hostile 11, but not of 100.
        assert set(page.run(matrix)) == {124, 8, 147}
        dots = "return [...document.querySelectorAll('#s0 figure')].pop().querySelectorAll('g circle')"
        x = page.run(dots.replace("return ", "return [...") + "].slice(0, 5).map(c => +c.getAttribute('cx'))")
        steps = np.diff(x) / (x[1] - x[0])
        assert steps == pytest.approx([1, np.log2(256 / 150), np.log2(150 / 128), 1], abs=0.01)
        page.look(1280, 30000)
        cut = "return [...document.querySelectorAll('#s0 .scroll')].filter(e => e.scrollWidth > e.clientWidth).length"
        assert page.run(cut) == 0
        for width, scheme in ((390, "dark"), (390, "light"), (1200, "dark")):
            page.look(width, 30000, scheme)
            page.open(tmp_path / "out" / "report.html")
            assert page.run("return document.documentElement.scrollWidth") == width
            hints = (
                "const told = e => getComputedStyle(e.querySelector('caption span, figcaption'), '::after').content;"
                "return [...document.querySelectorAll('.scroll, .chart.wide')].map(e =>"
                " [e.scrollWidth > e.clientWidth + 1, told(e).includes('Scroll')])"
            )
            assert all(cut == told for cut, told in page.run(hints))
            assert width > 390 or any(cut for cut, _ in page.run(hints))
        ground = page.run("return getComputedStyle(document.body).backgroundColor")
        assert sum(map(int, re.findall(r"\d+", ground))) < 120
        assert page.console() == []
