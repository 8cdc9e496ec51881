"""What a run leaves in its folder: checkpoints, log, diagnostics, TensorBoard's scalars, summary.

Shape legend: C classes; a history has a row per epoch, see training.log.
"""

import time
from argparse import Namespace
from pathlib import Path
from typing import Any

from training import diagnostics
from training.checkpoint import NAME, finite, save
from training.epoch import Sums, rates, remedy
from training.folder import make_folder
from training.log import Board, Row, write_log
from training.summary import summarise, versions
from utils.args import plain
from utils.errors import UserError
from utils.files import atomic_write_text, to_json
from utils.ranks import world_size


class Recorder:
    """Of a run with `objects` (see `fit`), which goes on from the checkpoint `start`, or begins.

    done: whole epochs that are done; history: a row for each of them (fewer after a published checkpoint).
    """

    def __init__(
        self,
        objects: dict[str, Any],
        args: Namespace,
        facts: dict[str, Any],
        start: dict[str, Any] | None,
        first_copy: int,
    ) -> None:
        start = start or {"epoch": 0}
        self.objects, self.args, self.first_copy = objects, args, first_copy
        # Where co-learning started stays, whatever --resume names by now.
        self.facts = facts | {key: n for key, n in start.get("facts", {}).items() if key == "start_epoch"}
        self.done, self.history = start["epoch"], start.get("history", [])
        over = self.done >= args.epochs  # then nothing is trained with the versions of today
        self.versions = start.get("versions", versions()) if over else versions()
        self.began = time.monotonic() - start.get("seconds", 0.0)

    def open(self) -> None:
        """Make the folder, and bring its files to the state of the checkpoint."""
        make_folder(self.args.out, self.args.overwrite)
        self.board = Board(self.args.out / "tensorboard", self.done)
        if self.history:
            self._write()

    def epoch(self, row: Row, test: dict[str, Any], machine: dict[str, float]) -> Row:
        """After an epoch: its row, completed. row: of `Sums`; test: of `metrics.evaluate`; machine: of `watch`."""
        row |= {"test": test, "confusion": test.pop("confusion")}
        if "counts" in row:
            row["pseudo"] = diagnostics.columns(row["counts"], self.facts, diagnostics.selects(row))
        for earlier in self.history:  # the latest is enough
            earlier.pop("confusion", None)
        self.history.append(row)
        self.done += 1
        n, every = self.done, self.args.copy_every
        copied = n >= self.first_copy and n % every == 1 % every
        shown = row | {"machine": machine}
        self.board.write(shown, n)  # before the checkpoint: what is too much in it, the next part purges
        self.save(Sums(), [f"checkpoint_{n}.pth.tar"] * copied + [NAME])
        self._write()
        return shown

    def save(self, sums: Sums, names: list[str] | None = None) -> None:
        """A checkpoint after the whole epochs and the steps in `sums`. Raises UserError if a weight isn't a number."""
        state: dict[str, Any] = {key: thing.state_dict() for key, thing in self.objects.items()}
        if not finite(state):
            n = self.done + (sums.step > 0)
            raise UserError(f"{rates(self.args)}: a weight isn't a number in epoch {n}; {remedy(n)}")
        state |= {"epoch": self.done, "step": sums.step, "totals": sums.totals(), "history": self.history}
        state |= {"seconds": self._seconds(), "arguments": plain(self.args), "facts": self.facts}
        state["versions"] = self.versions
        save(state, [self.args.out / name for name in names or [NAME]])

    def place(self, sums: Sums) -> str:
        """How far the run has come, in words."""
        return f"step {sums.step} of epoch {self.done + 1}" if sums.step else f"epoch {self.done}"

    def conclude(self) -> None:
        """Write `summary.json`; the last printed lines say what came out, and where it is."""
        out, figures = self.args.out, summarise([row["test"] for row in self.history])
        figures["best"]["epoch"] += self.done - len(self.history)
        run = {"steps_per_epoch": self.args.val_iteration, "arguments": plain(self.args)}
        machine = {"versions": self.versions, "processes": world_size(), "wall_seconds": round(self._seconds(), 1)}
        atomic_write_text(out / "summary.json", to_json(self.facts | run | figures | machine))
        mean, best = figures["last_20_mean"], figures["best"]
        print(
            f"mean balanced accuracy of the last {figures['epochs_averaged']} epochs: {mean['balanced']:.2f} % "
            f"(best {best['balanced']:.2f} % in epoch {best['epoch']}), geometric mean {mean['gm']:.2f} %, "
            f"top-1 {mean['top1']:.2f} %\nresults: {out}"
        )

    def _seconds(self) -> float:
        """Wall time of all parts of the run."""
        return time.monotonic() - self.began

    def _write(self) -> None:
        """The files that hold a row per epoch."""
        out: Path = self.args.out
        write_log(out / "log.txt", self.history, self.done)
        diagnostics.write(out / diagnostics.NAME, self.history, self.done)
