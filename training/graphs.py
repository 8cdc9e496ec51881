"""A training step as one CUDA graph: the host draws numbers, copies them, and launches once.

Shape legend: K numbers of a step, 4 bytes each.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

WARM_UP = 3  # steps before the capture: they make the optimisers' state, and the workspaces of cuDNN and cuBLAS


def replayed(
    step: Callable[[Any], dict[str, Tensor]], batches: Any, optimizers: Iterable[torch.optim.Optimizer]
) -> Callable[[int], dict[str, Tensor]]:
    """t -> logs of step t: the first three one kernel after the other, then all of them as one graph.

    batches: see `dataset.batches.Batches`, on a GPU where a kernel makes the views; their shapes don't depend on t.
    optimizers: those that the step uses, fused ones. The logs are overwritten by the next step.
    Nothing in a captured step may read the device, or take a number from the host but those that `batches` draws.
    """
    device = batches.device
    numbers = torch.empty(len(batches.draw(0)), dtype=torch.int32, device=device)
    side, graph, logs, calls = torch.cuda.Stream(device), torch.cuda.CUDAGraph(), {}, 0
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]

    def capture() -> None:
        for group in groups:
            group["capturable"] = True  # a fused optimiser is: it counts its steps on the device
        with torch.cuda.graph(graph, stream=side):
            logs.update(step(batches.make(numbers)))
        for group in groups:
            group["capturable"] = False  # as a checkpoint of eager steps says

    def run(t: int) -> dict[str, Tensor]:
        nonlocal calls
        numbers.copy_(torch.from_numpy(batches.draw(t)).pin_memory(), non_blocking=True)
        calls += 1
        if calls <= WARM_UP:
            side.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(side):
                early = step(batches.make(numbers))
            torch.cuda.current_stream(device).wait_stream(side)
            return early
        if calls == WARM_UP + 1:
            capture()
        graph.replay()
        return logs

    return run
