"""What is checked before a state is saved."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from training.checkpoint import finite


class Reads(TorchDispatchMode):
    """Counts how often the host asks for a number of the device."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.number += func.overloadpacket.__name__ == "_local_scalar_dense"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("bad", [None, torch.nan, -torch.inf])
def test_all_tensors_of_a_state_are_checked_in_one_read(bad):
    weights = [torch.zeros(3, 4, dtype=dtype) for dtype in (torch.float32, torch.float64, torch.bfloat16)] * 20
    if bad is not None:
        weights[-1][2, 3] = bad
    state = {"net": {"w": weights[0], "steps": torch.tensor(3)}, "deeper": [{"some": tuple(weights)}, "text", None]}
    with Reads() as reads:
        assert finite(state) == (bad is None)
    assert reads.number == 1
