"""The golden files, and the inputs they were made from: weights and images out of seeds."""

import json
from pathlib import Path

import numpy as np
import torch

GOLDEN = Path(__file__).parent.parent / "golden"


def golden(name: str) -> dict:
    return json.loads((GOLDEN / name).read_text())


def normal(seed: int, shape: tuple[int, ...]) -> torch.Tensor:
    """float32 standard normal numbers of NumPy's legacy generator: the inputs of all golden numbers."""
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape).astype(np.float32))


def integers(seed: int, high: int, size: int) -> torch.Tensor:
    return torch.from_numpy(np.random.RandomState(seed).randint(0, high, size))


def fill(module: torch.nn.Module, base: int) -> torch.nn.Module:
    """Fill a network with the golden weights number `base`, in the order of its state dict."""
    scale = 3.0 if base == 500 else 1.0
    for i, (key, value) in enumerate(module.state_dict().items()):
        r = normal(base + i, tuple(value.shape))
        if key.endswith("num_batches_tracked"):
            continue
        if key.endswith("running_var"):
            r = scale * (1 + 0.1 * r.abs())
        elif key.endswith("running_mean") or (r.ndim == 1 and not key.endswith("weight")):
            r = 0.1 * r
        elif r.ndim == 1:
            r = 1 + 0.1 * r
        else:
            r = r * np.sqrt(2 / np.prod(r.shape[1:])).item()
        value.copy_(r)
    return module
