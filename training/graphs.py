"""A training step as one CUDA graph: the host draws numbers, copies them, and launches once.

Shape legend: K numbers of a step, 4 bytes each.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

from dataset.file_batches import FileBatches
from dataset.render import has_kernel
from methods.method import Logs
from training.totals import Totals
from utils.errors import UserError

EAGER = 3  # steps before the capture: they make the optimisers' state, and the workspaces of cuDNN and cuBLAS
BUFFERS = 4  # so many steps may the host be ahead of the GPU: enough to keep it busy, few enough to stop soon


class Replay:
    """Does step t: the first three steps one kernel after the other, then all of them as one graph.

    batches: see `dataset.batches.Batches`, on a GPU where a kernel makes the views; their shapes don't depend on t.
    optimizers: those that the step uses, fused ones.
    Nothing in a captured step may read the device, or take a number from the host but those that `batches` draws; what
    it leaves, it leaves in tensors that stand before the capture.
    """

    def __init__(self, step: Callable[[Any], None], batches: Any, optimizers: Iterable[torch.optim.Optimizer]) -> None:
        self.step, self.batches, self.device = step, batches, batches.device
        self.numbers = torch.empty(len(batches.draw(0)), dtype=torch.int32, device=self.device)
        self.buffers = [torch.empty_like(self.numbers, device="cpu").pin_memory() for _ in range(BUFFERS)]
        self.copied = [torch.cuda.Event() for _ in range(BUFFERS)]
        self.side, self.graph = torch.cuda.Stream(self.device), torch.cuda.CUDAGraph()
        self.groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        self.calls = 0

    def __call__(self, t: int) -> None:
        self._copy(self.batches.draw(t))
        self.calls += 1
        if self.calls <= EAGER:
            self._eager()
            return
        if self.calls == EAGER + 1:
            self._capture()
        self.graph.replay()

    def _copy(self, words: np.ndarray) -> None:
        """Numbers (K,) to the GPU, by buffers in turn. One is filled again once it has been copied; by then the step
        before that copy is done, so the host doesn't run away.
        """
        buffer, copied = self.buffers[self.calls % BUFFERS], self.copied[self.calls % BUFFERS]
        copied.synchronize()  # at once where nothing was recorded yet
        buffer.copy_(torch.from_numpy(words))
        self.numbers.copy_(buffer, non_blocking=True)
        copied.record(torch.cuda.current_stream(self.device))

    def _eager(self) -> None:
        main = torch.cuda.current_stream(self.device)
        self.side.wait_stream(main)
        with torch.cuda.stream(self.side):
            self.step(self.batches.make(self.numbers))
        main.wait_stream(self.side)

    def _capture(self) -> None:
        for group in self.groups:
            group["capturable"] = True  # a fused optimiser is: it counts its steps on the device
        with torch.cuda.graph(self.graph, stream=self.side):
            self.step(self.batches.make(self.numbers))
        for group in self.groups:
            group["capturable"] = False  # as a checkpoint of eager steps says


def by_number(
    step: Callable[[Any], Logs], totals: Totals, batches: Any, objects: dict[str, Any], graph: bool
) -> Callable[[int], None]:
    """Does step t, which `step` does with its batch, and adds its logs to `totals`; with `graph` by one CUDA graph.
    objects: of the run, its optimisers among them.

    Raises UserError where the views aren't made by the kernel, which a graph needs, and for images in files.
    """

    def counted(batch: Any) -> None:
        totals.add(step(batch))

    if not graph:
        return lambda t: counted(batches.at(t))
    if isinstance(batches, FileBatches):
        problem = "needs images that lie in memory, and these are decoded for each batch"
        raise UserError(f"--graph: {problem}; leave --graph out, or take --img_size 64 or less")
    if not has_kernel(batches.device, batches.images.size):
        raise UserError("--graph: needs the kernel that makes the views, and images that fit it; leave --graph out")
    return Replay(counted, batches, [thing for thing in objects.values() if isinstance(thing, torch.optim.Optimizer)])
