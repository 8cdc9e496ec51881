"""What a run left in its folder, what several did, and whether another one left the same bits."""

import csv
import json
import logging
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from training.checkpoint import LATEST, load_archive


def printed(shown: Path) -> list[int]:
    """The epochs that a process said it had finished."""
    lines = shown.read_text().splitlines() if shown.exists() else ()
    return [int(line.split()[1].split("/")[0]) for line in lines if line.startswith("epoch ")]


def epoch_and_step(out: Path) -> tuple[int, int]:
    """Epoch and step of the last checkpoint, which must be whole; 0 without."""
    state = load_archive(out / LATEST) if (out / LATEST).exists() else {"epoch": 0, "step": 0}
    return state["epoch"], state["step"]


def finished(out: Path) -> bool:
    """Whether the run in a folder has trained all its epochs."""
    summary = out / "summary.json"
    return summary.exists() and json.loads(summary.read_text())["status"] == "finished"


def rows_of(record: Path) -> list[dict[str, str]]:
    """Of a CSV file with a header; none without the file."""
    if not record.exists():
        return []
    with record.open(newline="") as file:
        return list(csv.DictReader(file))


def add_rows(record: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    with record.open("a", newline="") as file:
        csv.writer(file).writerows(rows if file.tell() else [header, *rows])


def markdown_table(heading: Sequence[str], *rows: Sequence[str]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (heading, ["---"] * len(heading), *rows))


def mean_and_spread(values: Sequence[float], sign: str = "") -> str:
    """Of several seeds: mean ± sample standard deviation. sign: "+" shows that of a positive mean."""
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):{sign}.1f}{spread}" if values else "-"


def content(out: Path) -> dict[str, Any]:
    """What a run left, but for what may differ: times, folders."""
    found = {path.name: load_archive(path) for path in sorted(out.glob("checkpoint*.pth.tar"))}
    found["summary.json"] = json.loads((out / "summary.json").read_text())
    for state in found.values():
        for name in ("seconds", "wall_seconds", "step_seconds", "evaluation_seconds"):
            state.pop(name, None)
        state["arguments"].pop("out")
    with np.load(out / "diagnostics.npz") as arrays:
        found["diagnostics"] = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it tells what it purges, as it should
    events = EventAccumulator(str(out / "tensorboard")).Reload()
    shown = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    found["TensorBoard"] = {tag: values for tag, values in shown.items() if not tag.startswith("machine/")}
    return found | {"log.txt": (out / "log.txt").read_text(), "files": sorted(path.name for path in out.iterdir())}


def same(a: Any, b: Any) -> bool:
    """Whether two states are equal bit for bit; a figure without meaning, nan, equals itself."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and (a == b or (a != a and b != b))
