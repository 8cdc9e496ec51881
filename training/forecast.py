"""When a run ends, said once it is under way, and what would end sooner.

Shape legend: B images (B, 3, S, S) of a test set.
"""

import os
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import torch
from torch import Tensor, nn

from models.wrn import WideResNet

FROM, AT = 5, 20  # steps of a process: the first ones take longer
SMALLEST = 10, 1  # depth and width of the network of the hint
LONG = 600  # seconds, from which on there is a hint


class Forecast:
    """Of a run with these arguments; steps: per epoch. evaluation: -> seconds of one epoch's evaluation, tried out when
    it is called; None where that can't be.
    """

    def __init__(self, arguments: dict[str, Any], steps: int, evaluation: Callable[[], float | None]) -> None:
        self.arguments, self.steps, self.evaluation = arguments, steps, evaluation
        self.counted, self.last, self.times = 0, 0.0, list[float]()

    def step(self, t: int, wait: Callable[[], object]) -> list[str]:
        """After step t: what there is to say, in lines. wait: for the device."""
        self.counted += 1
        if self.counted > AT:
            return []
        if self.counted in (FROM, AT):
            wait()
        now, first = time.monotonic(), t % self.steps == 1 or self.steps == 1  # the end of an epoch lies before it
        if self.counted > FROM and not first:
            self.times.append(now - self.last)
        self.last = now
        if self.counted < AT or not self.times:
            return []
        return self._lines(t, sum(self.times) / len(self.times), self.evaluation())

    def _lines(self, t: int, step: float, evaluation: float | None) -> list[str]:
        epochs, each = self.arguments["epochs"], evaluation or 0.0
        whole = -(-t // self.steps)  # epochs, this one included
        epoch = (whole * self.steps - t) * step + each
        later = self.arguments.get("num_generation", 1) - 1 - self.arguments.get("generation", 0)  # of self-training
        run = epoch + (epochs - whole + later * epochs) * (self.steps * step + each)
        words = "and the evaluations" if evaluation is None else "evaluations included"
        ends = f"{_length(epoch)} to the end of this epoch, {_length(run)} to that of the run ({_clock(run, '%H:%M')})"
        lines = [f"{1 / max(1e-9, step):.3g} steps a second: {ends}, {words}"]
        if after := float(os.environ.get("LIST_AFTER") or 0):  # run_*.sh: as long as so many epochs of this run
            rest = after * (self.steps * step + each)
            lines.append(f"the list: {_length(run + rest)} to its end ({_clock(run + rest, '%a %d %b %H:%M')}), about")
        if run > LONG and (times := times_as_long(self.arguments)) > 1:
            flags = f"--depth {SMALLEST[0]} --width {SMALLEST[1]}"
            whole_run = epochs * (self.steps * step + each)
            words = f"at less accuracy, {_length(whole_run / times)} in all (both networks timed on a few images)"
            lines.append(f"hint: on this CPU a run with {flags} would take about 1/{times:.0f} of the time, {words}")
        return lines


def evaluation_seconds(predict: Callable[[Tensor], Tensor], data: Any) -> float | None:
    """How long an epoch's evaluation takes, from one batch of it; None where the images lie in files, for their workers
    are ahead with the steps' images. predict: images -> logits; data: see `dataset.data.Data`.
    """
    batches = data.tested_batches()
    if batches is None:
        return None

    def once() -> float:
        began = time.monotonic()
        for images, _ in data.test():
            with torch.no_grad():
                predict(images).cpu()
            break
        return time.monotonic() - began

    once()  # the first pass of its shape takes longer
    return float(batches * once())


def times_as_long(arguments: dict[str, Any]) -> float:
    """As a small Wide ResNet that of a CIFAR recipe takes for a pass forward and back, both timed on the CPU; 1 for
    co-learning, which has the network of its pre-training, for other recipes and networks, and on a GPU.
    """
    named = arguments.get("depth"), arguments.get("width")
    first_stage = "cifar" in arguments["recipe"] and "cossl" not in arguments["recipe"]
    ours = first_stage and arguments["arch"] is None and named != SMALLEST
    if not ours or (arguments["gpu"] != "cpu" and torch.cuda.is_available()):
        return 1.0
    with torch.random.fork_rng(devices=[]):
        images = torch.randn(16, 3, 32, 32)
        networks = [WideResNet(10, *size) for size in (named, SMALLEST)]
    large, small = (_seconds(network, images) for network in networks)
    return large / small


def _seconds(network: nn.Module, images: Tensor) -> float:
    """Of the faster of two passes."""
    times = []
    for _ in range(2):
        began = time.monotonic()
        network(images).sum().backward()
        times.append(time.monotonic() - began)
    return min(times)


def _length(seconds: float) -> timedelta:
    return timedelta(seconds=round(seconds))


def _clock(seconds: float, form: str) -> str:
    return f"{datetime.now() + timedelta(seconds=seconds):{form}}"
