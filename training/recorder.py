"""What a run leaves in its folder: checkpoints, log, diagnostics, TensorBoard's scalars, summary."""

import math
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

from training.background import Background
from training.checkpoint import BEST, LATEST, bring_best, finite, on_host, read_checkpoint, save_checkpoint
from training.diagnostics import pseudo_columns, selects, write_diagnostics
from training.folder import SUMMARY, Lock, writing
from training.history import Log, chosen_epoch, extended, length, summarise, versions
from training.outcome import doubts, outcome
from training.schema import Facts, History, Row
from training.tensorboard import Board
from training.totals import Totals, remedy
from utils.args import PLACE
from utils.errors import UserError
from utils.files import atomic_write_text, to_json
from utils.flags import with_role
from utils.ranks import world_size
from utils.text import reason, warn_once


class Recorder:
    """Of a run with these arguments and facts, which saves `objects` by checkpoint key.

    steps: per epoch; start: the checkpoint that it goes on from, None for a new run. With N = `copy_every`, copies are
    kept of the checkpoints of epochs 1, N + 1, 2 N + 1, ..., in co-learning without the first; where images are held
    out, BEST is that of the best epoch so far.
    done: whole epochs that are done; history: of these (of fewer after a published checkpoint), None for none.
    """

    def __init__(
        self, arguments: dict[str, Any], facts: Facts, objects: dict[str, Any], steps: int, start: dict[str, Any] | None
    ) -> None:
        start = start or {"epoch": 0}
        self.arguments, self.facts, self.objects, self.steps = arguments, facts, objects, steps
        self.out, self.epochs = Path(arguments["out"]), arguments["epochs"]
        self.done: int = start["epoch"]
        self.history: History | None = start.get("history")
        self.origin = Path(start["file"]) if "file" in start else None
        self.versions = versions() if self.done < self.epochs else start.get("versions", versions())
        self.began: float = monotonic() - start.get("seconds", 0.0)  # with the wall time of the parts before
        shown = {name: value for name, value in arguments.items() if name not in with_role(PLACE)}
        about = {"method": facts["method"], "start_epoch": facts["start_epoch"]} | shown
        self.board = Board(self.out / "tensorboard", facts["start_epoch"], about)
        self.log = Log(self.out / "log.txt")
        self.lock: Lock | None = None  # of the folder, once a run has it
        self.background = Background()  # which writes what an epoch leaves
        self.step_seconds = self.evaluation_seconds = math.nan  # of the last epoch

    @property
    def rates(self) -> str:
        """The flags that name learning rates, with their values. (A schedule's rate is among the logs.)"""
        return ", ".join(f"--{name} {self.arguments[name]:g}" for name in ("lr", "lr_tfe") if name in self.arguments)

    def open(self) -> None:
        """Bring the files of the folder to the state of the checkpoint. Raises UserError for a damaged BEST."""
        if (self.out / BEST).exists() and read_checkpoint(self.out / BEST, "--out")["epoch"] > self.done:
            (self.out / BEST).unlink()  # its epoch is to be trained once more
        if self.history and self.origin and "held_out_counts" in self.facts and not (self.out / BEST).exists():
            bring_best(self.out, self.origin, self.done - length(self.history) + chosen_epoch(self.history) + 1)
        self._write_history()
        self.summarise("running")

    def epoch(self, row: Row, machine: dict[str, float], then: Callable[[], None]) -> None:
        """An epoch is over: have all saved in the background; what isn't saved isn't done.
        machine: figures of how it went here; then: called once it is saved. Raises UserError if a weight is no number.
        """
        self.background.wait()
        if "counts" in row:
            row["pseudo"] = pseudo_columns(row["counts"], self.facts, selects(row["train"]))
        history = extended(self.history, row)
        state = on_host(self._state(self.done + 1, history, Totals()))
        self.background.start(partial(self._write_epoch, state, machine), then)
        for line in doubts(history, self.facts, self.arguments.get("tau"), self.epochs):
            warn_once(line)

    def _write_epoch(self, state: dict[str, Any], machine: dict[str, float]) -> None:
        done, history = state["epoch"], state["history"]
        final = summarise(history)["last_20_mean"] if done == self.epochs else {}
        with writing(self.lock):
            self.board.write(history, done, machine, final)  # first: the next part purges what no checkpoint has
            save_checkpoint(state, [self.out / name for name in (*self._copies(done, history), LATEST)])
            self.history, self.done = history, done
            self._write_history()
        self.summarise("running")

    def _copies(self, done: int, history: History) -> list[str]:
        every = self.arguments["copy_every"]
        first = 1 + every if "teacher_head" in self.objects else 1
        wanted = done >= first and done % every == 1 % every
        best = "held_out_counts" in self.facts and chosen_epoch(history) == length(history) - 1
        return [*([f"checkpoint_{done}.pth.tar"] if wanted else []), *([BEST] if best else [])]

    def save(self, totals: Totals) -> None:
        """A checkpoint after the whole epochs and the steps of `totals`. Raises UserError if a weight is no number."""
        self.background.wait()
        with writing(self.lock):
            save_checkpoint(self._state(self.done, self.history, totals), [self.out / LATEST])

    def _state(self, done: int, history: History | None, totals: Totals) -> dict[str, Any]:
        """Of a checkpoint after `done` whole epochs."""
        state: dict[str, Any] = {key: thing.state_dict() for key, thing in self.objects.items()}
        if not finite(state):
            n = done + (totals.step > 0)
            raise UserError(f"{self.rates}: a weight isn't a number in epoch {n}; {remedy(n)}")
        about = {"arguments": self.arguments, "facts": self.facts, "versions": self.versions}
        about |= {"epoch": done, "step": totals.step, "totals": totals.totals(), "history": history}
        return state | about | {"seconds": monotonic() - self.began}

    def progress(self, totals: Totals) -> str:
        """How far the run has come, in words, once that is saved."""
        self.background.wait()
        return f"step {totals.step} of epoch {self.done + 1}" if totals.step else f"epoch {self.done}"

    def summarise(self, status: str, why: str = "") -> dict[str, Any]:
        """Write `summary.json`, and return it. status, why: `status` and `reason` of `schema.Summary`."""
        figures = summarise(self.history)
        for part in filter(None, (figures["best"], figures.get("chosen"))):
            part["epoch"] += self.done - length(self.history)
        run = {"steps_per_epoch": self.steps, "arguments": self.arguments, "epochs": self.done}
        machine = {"versions": self.versions, "processes": world_size(), "step_seconds": self.step_seconds}
        machine |= {"evaluation_seconds": self.evaluation_seconds, "wall_seconds": round(monotonic() - self.began, 1)}
        state = {"status": status} | ({"reason": why} if why else {})
        summary = state | self.facts | run | figures | machine
        with writing(self.lock):
            atomic_write_text(self.out / SUMMARY, to_json(summary))
        return summary

    def fail(self, error: Exception) -> None:
        """Say in the summary why the run ends."""
        with suppress(OSError, UserError):  # where the folder can't be written to, the error itself is all that is left
            self.summarise("failed", reason(error))

    def conclude(self) -> None:
        """The last printed lines say what came out, and where it is."""
        best = f"; the best checkpoint on the held-out part: {BEST}" if (self.out / BEST).exists() else ""
        print(f"{outcome(self.summarise('finished'))}\nresults: {self.out}{best}")

    def _write_history(self) -> None:
        """The files that hold all epochs."""
        if self.history is not None:
            self.log.write(self.history, self.done)
            write_diagnostics(self.out / "diagnostics.npz", self.history, self.done)
