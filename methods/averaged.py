"""A network or head that is trained, with its exponential moving average: the only place that knows the EMA."""

from copy import copy, deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from utils.errors import UserError
from utils.ranks import mean_over_ranks

# Keys of checkpoints, the published ones; teacher_optimizer is ours.
STUDENT = ("state_dict", "ema_state_dict", "optimizer")
TEACHER = ("teacher_head", "ema_teacher", "teacher_optimizer")


class Averaged:
    """`live` descends on losses; `ema` follows it, in eval mode and without gradients.

    decay: share of the EMA's past kept per step (paper, section 4.1: momentum encoder).
    shrink: after every update of the EMA, each floating tensor of `live`, BatchNorm's statistics included, is
    multiplied by 1 - shrink (published code, not in the paper: weight decay of 0.02 lr in pre-training).

    kept: a tensor () on the device that takes decay's place, where a schedule sets it anew for each step.
    """

    def __init__(self, live: nn.Module, optimizer: torch.optim.Optimizer, decay: float, shrink: float = 0.0) -> None:
        self.live, self.optimizer, self.decay, self.shrink = live, optimizer, decay, shrink
        self.kept: Tensor | None = None
        self.ema = deepcopy(live).eval().requires_grad_(False)

    def descend(self, loss: Tensor) -> None:
        """One optimiser step on a loss of shape (), then EMA and shrink. Never waits for the device.

        Under torchrun `loss` is of this rank's rows. Gradients and BatchNorm's statistics become their means over the
        ranks, so that all ranks keep equal networks. (DistributedDataParallel would miss most of it: a step calls
        `features` and `rot` besides forward, and forward several times before it goes backward.)
        """
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        gradients = [parameter.grad for parameter in self._learning() if parameter.grad is not None]
        mean_over_ranks(gradients + [buffer for buffer in self.live.buffers() if buffer.is_floating_point()])
        self.optimizer.step()
        self.average()

    def _learning(self) -> list[Tensor]:
        """What the optimiser trains: a method may have parameters besides the network's."""
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    @torch.no_grad()
    def average(self) -> None:
        """ema <- decay ema + (1 - decay) live for every floating tensor, then live <- (1 - shrink) live."""
        live, ema = (_floating(network) for network in (self.live, self.ema))
        torch._foreach_mul_(ema, self.decay if self.kept is None else self.kept)
        if self.kept is None:
            torch._foreach_add_(ema, live, alpha=1 - self.decay)
        else:  # alpha can't be a tensor
            torch._foreach_add_(ema, torch._foreach_mul(live, 1 - self.kept))
        if self.shrink:
            torch._foreach_mul_(live, 1 - self.shrink)

    def using(self, optimizer: torch.optim.Optimizer, decay: float | None = None) -> "Averaged":
        """The same network and average, trained by another optimiser and, if one is given, with another decay."""
        other = copy(self)
        other.optimizer, other.decay = optimizer, self.decay if decay is None else decay
        return other

    def load(self, checkpoint: dict[str, Any]) -> None:
        """Take the states of a checkpoint's network. Raises UserError where they don't fit, see `load_states`."""
        load_states(self.objects(STUDENT), checkpoint)

    def objects(self, keys: tuple[str, str, str]) -> dict[str, Any]:
        """What a checkpoint holds of it, under the given keys: STUDENT or TEACHER."""
        return dict(zip(keys, (self.live, self.ema, self.optimizer), strict=True))


def _floating(network: nn.Module) -> list[Tensor]:
    return [tensor for tensor in network.state_dict().values() if tensor.is_floating_point()]


def adam(parameters: Any, lr: float, weight_decay: float = 0) -> torch.optim.Adam:
    """Adam for parameters, or groups of them, fused on a GPU."""
    parameters = list(parameters)
    first = parameters[0]["params"][0] if isinstance(parameters[0], dict) else parameters[0]
    return torch.optim.Adam(parameters, lr, weight_decay=weight_decay, fused=first.is_cuda)


def load_states(objects: dict[str, Any], checkpoint: dict[str, Any]) -> None:
    """Load every object's state; an optimiser keeps the hyper-parameters it was made with (the flags').

    objects: by checkpoint key. Raises UserError if the checkpoint is of another network.
    """
    for key, target in objects.items():
        groups = [group.copy() for group in getattr(target, "param_groups", [])]
        try:
            target.load_state_dict(checkpoint[key])
        except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
            remedy = "give the --dataset, --arch, --width and --depth it was trained with"
            raise UserError(f"{checkpoint['file']}: its {key} doesn't fit this network; {remedy}") from error
        for group, made in zip(getattr(target, "param_groups", []), groups, strict=True):
            group.update({name: value for name, value in made.items() if name != "params"})
            for parameter in group["params"] if group.get("fused") else []:
                moments = target.state.get(parameter, {})
                for name, value in moments.items():  # fused: steps are counted on the device, moments lie as weights do
                    like = parameter if value.shape == parameter.shape else value
                    moments[name] = torch.empty_like(like, dtype=value.dtype, device=parameter.device).copy_(value)
