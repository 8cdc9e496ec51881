"""A run is a folder, opened once: locked first, then read."""

from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from methods.averaged import STUDENT, TEACHER, Averaged, load_states
from methods.schedules import on_schedule
from methods.step import Step
from training import resume, stage1
from training.checkpoint import LATEST, read_checkpoint
from training.folder import Lock, discard_run, make_folder, refuse_results
from training.graphs import by_number
from training.loop import train
from training.recorder import Recorder
from training.schema import Facts
from training.totals import Totals, totals_of
from utils.args import plain
from utils.device import pick_device
from utils.errors import UserError
from utils.files import check_writable
from utils.ranks import Disconnected, agree, rank, start_alike
from utils.stop import Stop, Stopped, end_on_signals
from utils.watch import watch


@contextmanager
def open_run(args: Namespace) -> Iterator["Run"]:
    """The run in the folder `args.out`, with its device, and where it goes on. No other process can enter meanwhile;
    under torchrun rank 0 sees to that.

    Raises UserError where the folder holds another run and `--overwrite` isn't given, where another process trains in
    it, or where it can't be written to.
    """
    watch(args.rank_timeout)
    check_writable(args.out)
    run = Run(args, Lock(args.out) if args.out.is_dir() and rank() == 0 else None)
    try:
        yield run
    finally:
        if run.lock:
            run.lock.file.close()


class Run:
    """lock: of the folder; None where that isn't there yet, and on all ranks but the first.

    start: the checkpoint that the run goes on from, None for a new one. stage1: that it began with, once it is read.
    """

    def __init__(self, args: Namespace, lock: Lock | None) -> None:
        self.args, self.lock, self.arguments = args, lock, plain(args)
        self.start = resume.starting_point(args.out, args.resume, args.overwrite, self.arguments)
        self.stage1: dict[str, Any] | None = None
        self.device = pick_device(args.gpu)

    @property
    def goes_on(self) -> str:
        """The command that goes on where this one ends, in words."""
        if self.args.overwrite:
            return "the same command without --overwrite"
        path = self.args.resume
        copy = path is not None and path.name != LATEST and resume.is_in(path, self.args.out)
        return "the same command without --resume" if copy else "the same command"

    def pretrained(self, path: Path) -> dict[str, Any]:
        """The checkpoint that co-learning starts from: `path`; of a run that goes on its own, and `path` isn't read.

        Raises UserError if it is of another data set or network, or of co-learning.
        """
        if self.start is not None:
            self.arguments["resume"] = self.start["arguments"]["resume"]
            return self.start
        self.arguments["resume"] = str(path.resolve())
        self.stage1 = read_checkpoint(path, "--resume")
        stage1.check_pretraining(self.stage1, self.arguments, path)
        return self.stage1

    def fit(
        self,
        step: Step,
        predict: Callable[[Tensor], Tensor],
        data: Any,
        steps: int,
        student: Averaged,
        teacher: Averaged | None = None,
        before: Callable[[], None] | None = None,
    ) -> None:
        """Train until `--epochs`, from the start or from where the run left off, then summarise.

        predict: images -> logits, what is evaluated; data: see `dataset.data.Data`; steps: per epoch; before: called
        once, before step 0.
        A batch is a function of (seed, t), so that a killed and resumed run repeats the bits of one that wasn't. With
        `--graph` a step is one CUDA graph.
        A signal or the time limit ends the run after the step that is running, or in the middle of an evaluation, and
        the checkpoint is of that step; under torchrun a signal ends it at once, and the time limit after an epoch. The
        time limit never ends `before`, nor an evaluation that is all a process has done: so every part gets further.
        Raises Stopped; UserError if a loss or a weight stops being a number, if another process trains in the folder,
        or if it can't be written to.
        """
        stop, step = Stop(self.args.time_limit), on_schedule(step, self.args, student, teacher, self._begun(steps))
        objects = saved_objects(step, student, teacher)
        facts = {"start_epoch": 0} | step.facts() | data.facts() | getattr(student.live, "facts", {})
        recorder, totals = self._recorder(facts, objects, steps)
        numbered = by_number(step.train, totals, data.batches(step.streams, *step.draws), objects, self.args.graph)
        self._claim(recorder)
        try:
            if rank() == 0:
                recorder.open()
            if self.start is None and before is not None:
                _prepare(before)
            start_alike([thing for thing in objects.values() if isinstance(thing, nn.Module)])
            with stop.after_first_signal():
                train(numbered, predict, data, recorder, totals, stop, self.goes_on)
            if rank() == 0:
                recorder.conclude()
        except Exception as error:
            if rank() == 0 and not isinstance(error, (Stopped, Disconnected)):  # these leave a run that goes on
                recorder.fail(error)
            raise

    def _begun(self, steps: int) -> int:
        """The steps of pre-training, if it has told how many it had an epoch; else as many as this run has."""
        if self.stage1 is not None:
            return int(self.stage1["epoch"] * (self.stage1.get("arguments", {}).get("val_iteration") or steps))
        return int(self.start.get("facts", {}).get("start_step", 0)) if self.start else 0

    def _recorder(self, facts: Facts, objects: dict[str, Any], steps: int) -> tuple[Recorder, Totals]:
        """What records the run, and what is done of an epoch that isn't whole. Objects get the state of the start."""
        start, totals, facts["start_step"] = self.start, Totals(), self._begun(steps)
        if weights := (start or self.stage1 or {}).get("facts", {}).get("weights_sha256"):
            facts["weights_sha256"] = weights
        if self.stage1 is not None:
            facts["start_epoch"], before = self.stage1["epoch"], self.stage1.get("facts", facts)["method"]
            if not facts["method"].startswith(before):
                facts["method"] += f", after {before}"
            stage1.same_classes(self.stage1, facts)
        if start is None:
            recorder = Recorder(self.arguments, facts, objects, steps, None)
        else:
            then = start.get("facts", facts)
            facts["start_epoch"], facts["method"] = then["start_epoch"], then["method"]
            resume.same_data(start, facts)
            load_states(objects, start)
            totals, recorder = totals_of(start), Recorder(self.arguments, facts, objects, steps, start)
            if recorder.done > recorder.epochs or not (recorder.history or recorder.done < recorder.epochs):
                problem = f"the checkpoint has {recorder.done} epochs already"
                raise UserError(f"--epochs {recorder.epochs}: {problem}; raise --epochs")
            print(f"continuing after {recorder.progress(totals)}")
        place = recorder.done * recorder.steps + totals.step
        agree(place, "--out: not all processes see the same checkpoint; it must be a folder that all machines share")
        return recorder, totals

    def _claim(self, recorder: Recorder) -> None:
        """Have the folder, its lock, and nothing in it that `--overwrite` discards."""
        out = self.args.out
        if rank():
            return
        if self.lock is None:
            make_folder(out)
            self.lock = Lock(out)
            if (out / LATEST).exists():
                raise UserError(f"--out {out}: another process has trained there meanwhile; give the command once more")
        recorder.lock = self.lock
        if self.args.overwrite:
            discard_run(out)
        elif self.start is None:
            refuse_results(out)


def saved_objects(step: Step, student: Averaged, teacher: Averaged | None) -> dict[str, Any]:
    """Networks, optimisers and what else has a state, by checkpoint key."""
    return student.objects(STUDENT) | (teacher.objects(TEACHER) if teacher else {}) | step.state


def _prepare(before: Callable[[], None]) -> None:
    print("preparing the first epoch", flush=True)
    end_on_signals("before its first step a run has nothing to save; the same command starts anew")
    before()
    end_on_signals()
