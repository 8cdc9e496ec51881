"""Several processes train one network under torchrun: each takes its rows of every batch, and means go round.

Shape legend: W processes ("ranks" 0 to W - 1), B rows of a whole batch. Without torchrun W is 1, and nothing in here
does anything; torch is imported where it is used, since scripts without a network pass through here, too.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from utils.errors import UserError
from utils.signs import SIGNS

if TYPE_CHECKING:
    from torch import Tensor, nn

SETTINGS = {"WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"}


class Disconnected(Exception):
    """Another process of a run under torchrun doesn't answer; the message is the engine's."""


def rank() -> int:
    """Number of this process among all of the run; rank 0 prints, evaluates and writes."""
    return _setting("RANK", 0)


def world_size() -> int:
    return _setting("WORLD_SIZE", 1)


def launched() -> bool:
    """Whether torchrun, or a launcher with its settings, has started this process beside others."""
    return world_size() > 1 and os.environ.keys() >= SETTINGS


def _setting(name: str, default: int) -> int:
    """A number of torchrun's; what is none is refused by `joined`, and must not keep it from saying so."""
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() else default


def of_rank(name: str) -> str:
    """The name of a stream of random numbers that is this rank's own; rank 0 has that of a run without torchrun."""
    return f"{name}, rank {rank()}" if rank() else name


def my_rows(batch_size: int) -> slice:
    """Which rows of a whole batch this process takes: the rank-th of W equal blocks, so that means over the ranks are
    means over the batch. Raises UserError if the blocks wouldn't be equal.
    """
    share, rest = divmod(batch_size, world_size())
    if rest:
        raise UserError(
            f"--batch-size {batch_size}: not a multiple of the {world_size()} processes that share it; "
            "change it, or torchrun's --nproc_per_node"
        )
    return slice(rank() * share, (rank() + 1) * share)


@contextmanager
def joined() -> Iterator[None]:
    """Within, the processes that torchrun started can reach each other, and only rank 0 prints.

    Tensors on GPUs go through NCCL, others through gloo. Raises UserError where torchrun's settings are incomplete, or
    wrong.
    """
    if "WORLD_SIZE" not in os.environ:
        yield
        return
    _check_settings()
    import torch
    import torch.distributed as dist
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    # Both, for `agree` has tensors on the CPU: by itself torch would take the GPU's engine alone.
    engines = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    with _reaching():
        store, number, of = next(rendezvous("env://"))
        store = PrefixStore(_attempt(), store)
        # `watch` ends what waits too long, and can tell for whom.
        dist.init_process_group(engines, store=store, rank=number, world_size=of, timeout=timedelta(days=1))
    if rank():
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            yield
    else:
        if world_size() > 1:
            print(f"{world_size()} processes share every batch", flush=True)
        yield
    agree(0, "")  # no rank leaves before rank 0 has written all
    dist.destroy_process_group()


def _check_settings() -> None:
    if missing := SETTINGS - os.environ.keys():
        raise UserError(f"WORLD_SIZE is set, but not {', '.join(sorted(missing))}; unset it, or start by torchrun")
    numbers = [name for name in sorted(SETTINGS - {"MASTER_ADDR"}) if not os.environ[name].isdecimal()]
    if numbers or rank() >= world_size() or _setting("MASTER_PORT", 0) > 65535:
        given = ", ".join(f"{name}={os.environ[name]!a}" for name in numbers or sorted(SETTINGS))
        raise UserError(f"{given}: not what torchrun sets; unset them, or start by torchrun")


@contextmanager
def _reaching() -> Iterator[None]:
    """Within, this process waits for others. What the engine raises when one of them is gone becomes a Disconnected."""
    try:
        with SIGNS.waiting():
            yield
    except RuntimeError as error:  # gloo's own; NCCL's and the store's derive from it
        if "EADDRINUSE" in str(error) or "address already in use" in str(error).lower():
            raise UserError(f"MASTER_PORT {os.environ['MASTER_PORT']}: in use; take another port") from error
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun's, to the processes that are left: these end anyway
        reason = re.sub(r"^\[\S+\] ", "", " ".join(str(error).split()))  # without its place in the source
        raise Disconnected(reason.split(". ")[0]) from error


def mean_over_ranks(tensors: Sequence[Tensor]) -> None:
    """Replace floating tensors, in place, by their means over the ranks; every rank gets the same bits."""
    if world_size() == 1:
        return
    import torch
    import torch.distributed as dist

    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    with _reaching():
        dist.all_reduce(flat)
    parts = flat.div_(world_size()).split([tensor.numel() for tensor in tensors])
    torch._foreach_copy_(list(tensors), [part.view_as(like) for part, like in zip(parts, tensors, strict=True)])


def agree(number: int, problem: str) -> None:
    """Wait until all ranks are here. Raises UserError with `problem` unless all have the same number."""
    if world_size() == 1:
        return
    import torch
    import torch.distributed as dist

    extremes = torch.tensor([number, -number])
    with _reaching():
        dist.all_reduce(extremes, dist.ReduceOp.MAX)
    if extremes.sum():
        raise UserError(f"{problem} ({-extremes[1]} and {extremes[0]})")


def any_rank(flag: bool) -> bool:
    """Whether the flag of any rank is set. Waits until all ranks are here."""
    if world_size() == 1:
        return flag
    import torch
    import torch.distributed as dist

    highest = torch.tensor(int(flag))
    with _reaching():
        dist.all_reduce(highest, dist.ReduceOp.MAX)
    return bool(highest)


def start_alike(modules: Sequence[nn.Module]) -> None:
    """Give every rank the weights and buffers of rank 0: unlike processors may round initial weights otherwise."""
    if world_size() == 1:
        return
    import torch.distributed as dist

    with _reaching():
        for module in modules:
            for tensor in (*module.parameters(), *module.buffers()):
                dist.broadcast(tensor.detach(), src=0)


def _attempt() -> str:
    """Which start of the processes this is: with --max_restarts torchrun keeps one store for all of them."""
    return f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
