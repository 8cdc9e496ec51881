"""Muon (Jordan et al. 2024) for convolutions: momentum whose matrices are made orthogonal, by torch's optimiser.

Shape legend: kernels (O, I, k, k), as matrices (O, I k k).
"""

from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam

from utils.errors import UserError

# Of the rate. Entries of Muon's updates then have the same mean square as those of an Adam at that rate where all
# gradients agree in sign: `match_rms_adamw` makes it 0.2 of the rate.
FACTOR = 5


class MuonForKernels(Adam):
    """An Adam's parameters, the kernels of convolutions by Muon, all others by Adam; it takes over their moments.

    others: how many times the rate these have. The state is that of an Adam without moments for kernels, and `muon`, so
    that either can go on from the other's. Make it when the kernels lie as they will stay, see `--channels_last`.
    Raises UserError for PyTorch before 2.9.
    """

    def __init__(self, adam: torch.optim.Optimizer, others: float = 1.0) -> None:
        if not hasattr(torch.optim, "Muon"):
            raise UserError(f"--schedule short: needs PyTorch 2.9 or newer, here {torch.__version__}; update it")
        super().__init__([group | {"lr": others * group["lr"]} for group in adam.param_groups], **adam.defaults)
        groups = [
            [p for p in group["params"] if p.ndim == 4 and p[0].numel() > 1 and p.requires_grad]
            for group in self.param_groups
        ]
        self.kernels: list[Tensor] = [kernel for group in groups for kernel in group]
        self.matrices = [torch.nn.Parameter(_matrix(kernel.detach())) for kernel in self.kernels]
        left, options = iter(self.matrices), []
        for group, kernels in zip(adam.param_groups, groups, strict=True):
            rates = {"lr": FACTOR * group["lr"], "weight_decay": group["weight_decay"]}
            options.append({"params": [next(left) for _ in kernels]} | rates)
        self.muon = torch.optim.Muon(options, adjust_lr_fn="match_rms_adamw")
        self.state.update(adam.state)
        self._forget_kernels()

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for matrix, kernel in zip(self.matrices, self.kernels, strict=True):
            matrix.grad = None if kernel.grad is None else _matrix(kernel.grad)
            kernel.grad = None  # Adam leaves it out
        super().step(closure)
        self.muon.step()
        for matrix in self.matrices:
            matrix.grad = None

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"muon": self.muon.state_dict()["state"]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._forget_kernels()
        self.muon.load_state_dict(self.muon.state_dict() | {"state": state_dict.get("muon", {})})

    def _forget_kernels(self) -> None:
        for kernel in self.kernels:
            self.state.pop(kernel, None)


def _matrix(kernel: Tensor) -> Tensor:
    """(O, I, k, k) -> (O, I k k), a view of where it lies, so its columns are in that order: Muon takes any."""
    return (kernel if kernel.is_contiguous() else kernel.permute(0, 2, 3, 1)).reshape(len(kernel), -1)
