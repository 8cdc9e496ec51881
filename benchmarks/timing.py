"""Time, and the machine in words: what the benchmarks of speed share."""

import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL
import torch
import torchvision

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
ABOUT_CLOCK = "wall: what a user waits for; cpu: processor time of all threads, where others use the machine, too"
CPU = torch.device("cpu")


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(
    work: Callable[[], object],
    device: torch.device = CPU,
    clock: Callable[[], float] = time.perf_counter,
    calls: int = 1,
) -> float:
    """Of all calls together; the device is waited for before and after them."""
    wait(device)
    start = clock()
    for _ in range(calls):
        work()
    wait(device)
    return clock() - start


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.processor())


def machine(threads: str) -> str:
    return (
        f"{cpu_name()}, {threads}; Python {platform.python_version()}, torch {torch.__version__}, "
        f"torchvision {torchvision.__version__}, Pillow {PIL.__version__}, NumPy {np.__version__}"
    )
