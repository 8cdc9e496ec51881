"""CUDA graphs and what goes with them: what is asked of a GPU, refusals.

The graph itself needs a GPU: `benchmarks/accept.py` compares its bits with those of eager steps.
"""

from argparse import Namespace
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.scripts import TINY, assert_refused, run_here

from benchmarks.recipe_steps import made_up, recipe_step
from training.graphs import BUFFERS, EAGER, Replay, by_number
from training.speed import check_cuda_flags
from training.totals import Totals
from utils.errors import UserError

EAGER_STEP = ["side waits for main", "step on side, capturable False", "main waits for side"]


class LazyGPU:
    """In the place of CUDA: it does as late as it may what it is asked. asked: in the host's order; done: steps."""

    def __init__(self, monkeypatch) -> None:
        self.asked, self.done, self.queue, self.pinned, self.current = [], [], [], [], "main"
        for name in ("Stream", "Event", "CUDAGraph", "stream", "graph", "current_stream"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: self.pinned.append(tensor) or tensor)
        copy = torch.Tensor.copy_

        def copy_(place, source, non_blocking=False):
            if not non_blocking:
                return copy(place, source)
            assert any(source is tensor for tensor in self.pinned)
            self.queue.append(partial(copy, place, source))

        monkeypatch.setattr(torch.Tensor, "copy_", copy_)

    def Stream(self, device):
        return SimpleNamespace(name="side", wait_stream=lambda other: self.asked.append(f"side waits for {other.name}"))

    def current_stream(self, device):
        return SimpleNamespace(name="main", wait_stream=lambda other: self.asked.append(f"main waits for {other.name}"))

    def Event(self):
        event = SimpleNamespace(recorded=lambda: None)
        event.record = lambda stream: self.queue.append(event.recorded)
        event.synchronize = lambda: self.work(until=event.recorded)
        return event

    def CUDAGraph(self):
        graph = SimpleNamespace(works=[])
        graph.replay = lambda: (self.asked.append("replay"), self.queue.extend(graph.works))
        return graph

    @contextmanager
    def stream(self, stream):
        before, self.current = self.current, stream.name
        yield
        self.current = before

    @contextmanager
    def graph(self, graph, stream):
        self.asked.append("capture")
        before, self.queue = self.queue, graph.works
        with self.stream(stream):
            yield
        self.queue = before

    def work(self, until=None) -> None:
        """All that was asked, or as much as was before `until`."""
        while self.queue and (until is None or until in self.queue):
            self.queue.pop(0)()


def test_what_a_replayed_run_asks_of_a_gpu(monkeypatch):
    """Three eager steps, a capture; numbers arrive before their step, and the host doesn't run away."""
    gpu, optimizer = LazyGPU(monkeypatch), torch.optim.Adam([torch.zeros(1, requires_grad=True)])
    (group,), steps = optimizer.param_groups, EAGER + 2 * BUFFERS

    def step(words) -> None:
        gpu.asked.append(f"step on {gpu.current}, capturable {group['capturable']}")
        gpu.queue.append(lambda: gpu.done.append(words.tolist()))

    draw, make = (lambda t: np.array([t, 7], np.int32)), (lambda words: words)
    replay = Replay(step, SimpleNamespace(device=torch.device("cpu"), draw=draw, make=make), [optimizer])
    for t in range(steps):
        replay(t)
        assert t - BUFFERS <= len(gpu.done) <= t  # waits for no step that was only just asked for
        assert group["capturable"] is False
    gpu.work()
    assert gpu.done == [[t, 7] for t in range(steps)]
    captured = ["capture", "step on side, capturable True"]
    assert gpu.asked == EAGER_STEP * EAGER + captured + ["replay"] * (steps - EAGER)
    assert len(gpu.pinned) == BUFFERS


def test_a_graph_needs_the_kernel_that_makes_the_views():
    flags = ["--gpu", "cpu", "--num_max", 40, "--imb_ratio_l", 5, "--imb_ratio_u", 5, "--depth", 10, "--width", 1]
    it = recipe_step("train_cifar_fix", made_up(2000, 100, size=16), *flags)
    with pytest.raises(UserError, match=r"^--graph: needs the kernel that makes the views"):
        by_number(it.step, Totals(), it.batches, it.objects, graph=True)


@pytest.mark.parametrize(
    ("script", "flags", "words"),
    [
        ("train_cifar_fix", ["--graph"], "--graph: for a CUDA GPU"),
        ("train_cifar_fix", ["--tf32"], "--tf32: for a CUDA GPU"),
        ("train_cifar_remix", ["--cudnn_benchmark"], "--cudnn_benchmark: for a CUDA GPU"),
        ("train_food_fix", ["--graph"], "unrecognized arguments: --graph"),
    ],
)
def test_flags_for_a_gpu_are_refused_in_one_line(script, flags, words, tmp_path):
    settings = TINY if "cifar" in script else ["--gpu", "cpu"]
    assert_refused(run_here(f"{script}.py", *settings, *flags, "--out", tmp_path / "run"), words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("ranks", "compiling", "words"),
    [(2, None, "--graph: for one process"), (1, "reduce-overhead", "--graph: a step is one graph already")],
)
def test_a_graph_is_of_one_process_and_of_steps_that_are_no_graph_yet(ranks, compiling, words, as_rank):
    flags = Namespace(graph=True, tf32=True, cudnn_benchmark=False, compile=compiling)
    as_rank(0, ranks)
    with pytest.raises(UserError, match=words):
        check_cuda_flags(flags, "cuda")
    as_rank(0, 1)
    check_cuda_flags(Namespace(**vars(flags) | {"compile": "default"}), "cuda")
