"""Folders like those that runs leave, without training: all figures follow a formula.

Shape legend: E epochs, C classes.
"""

import json
from pathlib import Path

import numpy as np

from dataset.long_tail import class_counts
from training.history import averaged_epochs, extended, summarise
from utils.files import to_json

TESTED = ("top1", "balanced", "gm", "many", "medium", "few")
# The published co-learning run of CIFAR-10.
PUBLISHED = {
    "dataset": "cifar10",
    "num_max": 1500,
    "ratio": 2.0,
    "imb_ratio_l": 100,
    "imb_ratio_u": 100,
    "width": 2,
    "depth": 28,
    "epochs": 100,
    "val_iteration": 500,
    "batch_size": 64,
    "lr": 0.002,
    "ema_decay": 0.999,
    "tau": 0.95,
    "max_lam": 0.6,
    "lr_tfe": 0.002,
    "wd_tfe": 5e-4,
    "warm_tfe": 10,
    "classifier": "tfe",
    "img_size": 32,
    "skip_corrupt": False,
    "recipe": "train_cifar_fix_cossl",
    "copy_every": 100,
    "overwrite": False,
    "gpu": "0",
    "data_root": "data",
}


def make_run(
    folder: Path,
    method: str = "FixMatch+CoSSL",
    level: float = 80,
    seed: int = 1,
    logged: int = 25,
    classes=10,
    status: str = "finished",
    reason: str = "",
    diagnostics: bool = False,
    shifted: bool = False,
    start: int = 401,
    offset: float = 1,
    tested_on: str = "",
    **changed,
) -> Path:
    """A run whose top-1 rises by 0.1 an epoch, to `level` as mean of the last ones; balanced accuracy is `offset` less.

    logged: epochs run; classes: their number or names; status, reason: as in its summary; changed: arguments other than
    PUBLISHED's; tested_on: what `evaluated_on` says, where images are held out.
    """
    folder.mkdir(parents=True)
    names = [f"class {c}" for c in range(classes)] if isinstance(classes, int) else list(classes)
    arguments = PUBLISHED | {"manualSeed": seed, "out": str(folder), "resume": "x"} | changed
    counts = class_counts(arguments["num_max"], len(names), arguments["imb_ratio_l"]).tolist()
    tail = np.mean([n / 10 for n in range(1, logged + 1)][-averaged_epochs(logged) :])
    history, lines = None, ["\t".join(["epoch", "loss", "mask", "acc_u", "test_loss", *TESTED])]
    for n in range(1, logged + 1):
        figures = {name: level + n / 10 - tail - i * offset for i, name in enumerate(TESTED)}
        recall = [min(100.0, max(0.0, level + 20 - 40 * c / len(names))) for c in range(len(names))]
        tested = figures | {"loss": 3 / n, "ece": 7.0, "recall": recall}
        history = extended(history, {"train": {}, "test": tested, "confusion": None})
        row = [n, 4 / n, n / (n + 5), 0.9 - 1 / (n + 2), 3 / n, *figures.values()]
        lines.append("\t".join(f"{value:.6g}" for value in row))
    (folder / "log.txt").write_text("\n".join(lines) + "\n")
    (folder / "checkpoint.pth.tar").write_bytes(b"the report doesn't open it")
    facts = {"method": method, "start_epoch": start, "classes": names, "labelled_counts": counts}
    facts |= {"unlabelled_counts": None, "unlabelled": 2 * sum(counts), "img_size": 32}
    facts |= {"mean": [0.5] * 3, "std": [0.5] * 3}
    facts |= {"held_out_counts": [1] * len(names), "evaluated_on": tested_on} if tested_on else {}
    state = {"status": status} | ({"reason": reason} if reason else {})
    about = {"steps_per_epoch": arguments["val_iteration"], "arguments": arguments, "epochs": logged}
    machine = {"versions": {"torch": "2.14.1"}, "processes": 1, "wall_seconds": 3723.4}
    (folder / "summary.json").write_text(to_json(state | facts | about | summarise(history) | machine))
    if diagnostics:
        make_diagnostics(folder, logged, len(names), seed)
    if shifted:
        make_shifted(folder, level, logged)
    return folder


def make_diagnostics(folder: Path, epochs: int, classes: int, seed: int) -> None:
    random, shape = np.random.default_rng(seed), (epochs, classes)
    present = np.broadcast_to(np.linspace(2000, 20, classes).astype(np.int64), shape)
    guessed = random.poisson(present)
    right = random.binomial(np.minimum(present, guessed), np.linspace(0.95, 0.4, classes))
    right_selected = random.binomial(right, 0.8)
    selected = right_selected + random.binomial(guessed - np.minimum(right, guessed), 0.3)
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = {"precision": 100 * right_selected / selected, "recall": 100 * right_selected / present}
        shares["mask_rate"] = 100 * selected / guessed
    confusion = random.poisson(3.0, (classes, classes)) + np.diag(np.linspace(200, 60, classes).astype(np.int64))
    counts = {"guessed": guessed, "selected": selected, "present": present, "right_selected": right_selected}
    np.savez(folder / "diagnostics.npz", epoch=np.arange(1, epochs + 1), confusion=confusion, **counts, **shares)
    ends = {"precision": 90, "recall": 80, "mask": 60}
    columns = {f"pl_{kind}_{third}": v for kind, v in ends.items() for third in ("many", "medium", "few")}
    columns |= {"pl_kl": 0.3, "ece": 7}
    first, *lines = (folder / "log.txt").read_text().splitlines()
    lines = ["\t".join([first, *columns])] + [
        "\t".join([line, *(f"{v - v / (n + 1) * (0.2 + seed / 9):.6g}" for v in columns.values())])
        for n, line in enumerate(lines, 1)
    ]
    (folder / "log.txt").write_text("\n".join(lines) + "\n")


def make_shifted(folder: Path, level: float, epoch: int) -> None:
    ratios = [512, 256, 150, 128, 64, 32, 16, 8, 4, 2, 1, -2, -4, -8, -16, -32, -64, -128, -256, -512]
    top1 = [level + 8 - i for i in range(len(ratios))]
    found = {"dataset": "cifar10", "epoch": epoch, "checkpoint": "checkpoint.pth.tar", "n_max": 1000, "ratios": ratios}
    found |= {"images": [1000] * len(ratios), "top1": top1, "low": [v - 1 for v in top1], "high": [v + 1 for v in top1]}
    found |= {"weighted": top1, "worst": {"ratio": -512, "top1": top1[-1]}, "area": level, "known_prior": None}
    (folder / "shifted.json").write_text(json.dumps(found))
