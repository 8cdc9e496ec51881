"""The device of a run, and what CUDA does with float32 there."""

import os

import torch

from utils.errors import UserError
from utils.ranks import world_size


def pick_device(gpu: str) -> torch.device:
    """The device that `--gpu` names: without CUDA the CPU, and one line that says so.

    Under torchrun every process has the GPU of its number on its machine. On a GPU, convolutions and products are of
    float32, not of TF32, and cuDNN's algorithms are those that give the same bits each time, until flags say otherwise.
    Raises UserError for a number that this machine doesn't have.
    """
    if gpu == "cpu":
        return torch.device("cpu")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it, sums on several streams have no order
    if not torch.cuda.is_available():
        print(f"--gpu {gpu}: no CUDA device found, running on the CPU (--gpu cpu asks for it)")
        return torch.device("cpu")
    count, number = torch.cuda.device_count(), int(gpu)
    if world_size() > 1:
        if number:
            raise UserError(f"--gpu {gpu}: torchrun gives a GPU to each process; leave --gpu out")
        number = int(os.environ["LOCAL_RANK"])
        if number >= count:
            raise UserError(f"--nproc_per_node: more processes than this machine has CUDA devices ({count})")
    if number >= count:
        raise UserError(f"--gpu {gpu}: this machine has {count} CUDA device(s), numbered from 0")
    torch.cuda.set_device(number)  # for NCCL, and for the kernel
    use_tf32(False)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    return torch.device("cuda", number)


def use_tf32(on: bool) -> None:
    """Whether CUDA's convolutions and products may round float32 to TF32. (PyTorch's default differs between them.)"""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = on
