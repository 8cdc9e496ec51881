"""Muon for convolutions: against torch's two optimisers side by side, and a checkpoint of either for the other."""

import copy
from types import SimpleNamespace

import pytest
import torch
from helpers.golden import normal
from torch import nn

from methods.averaged import Averaged, adam, load_states
from methods.muon import FACTOR, MuonForKernels
from methods.schedules import OTHERS, on_schedule
from methods.step import Step
from utils.errors import UserError


def network(layout=torch.contiguous_format) -> nn.Module:
    torch.manual_seed(0)
    parts = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten()
    return nn.Sequential(*parts, nn.Linear(4 * 4 * 4, 5)).to(memory_format=layout)


def train(net: nn.Module, optimizers, steps: range) -> None:
    for t in steps:
        net.zero_grad()
        net(normal(t, (6, 3, 8, 8))).square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_kernels_by_muon_and_all_else_by_adam(layout):
    """The columns of a kernel's matrix may come in any order, so that the layout changes the last digits alone."""
    ours, slow = network(layout), network()
    optimizer = MuonForKernels(adam(ours.parameters(), 0.01, 0.1), others=3)
    matrices = [nn.Parameter(p.detach().flatten(1)) for p in slow.parameters() if p.ndim == 4]  # share their memory
    others = torch.optim.Adam([p for p in slow.parameters() if p.ndim != 4], 0.03, weight_decay=0.1)
    muon = torch.optim.Muon(matrices, FACTOR * 0.01, 0.1, adjust_lr_fn="match_rms_adamw")
    before = copy.deepcopy(slow.state_dict())
    for t in range(4):
        train(ours, [optimizer], range(t, t + 1))
        slow.zero_grad()
        slow(normal(t, (6, 3, 8, 8))).square().mean().backward()
        for matrix, kernel in zip(matrices, [p for p in slow.parameters() if p.ndim == 4], strict=True):
            matrix.grad, kernel.grad = kernel.grad.flatten(1), None
        muon.step(), others.step()
    exact = {} if layout == torch.contiguous_format else {"rtol": 0.05, "atol": 0.003}  # its products are in bfloat16
    torch.testing.assert_close(ours.state_dict(), slow.state_dict(), **exact)
    kernel = slow.state_dict()["0.weight"] - before["0.weight"]
    assert kernel.square().mean().sqrt() == pytest.approx(4 * 0.01, rel=0.3)  # as Adam's, of equal gradients


def test_groups_keep_their_rates_and_frozen_kernels_stay():
    net = network()
    first, second = (p for p in net.parameters() if p.ndim == 4)
    second.requires_grad_(False)
    rest = [p for p in net.parameters() if p.ndim != 4]
    optimizer = MuonForKernels(adam([{"params": rest}, {"params": [first, second], "lr": 0.001}], 0.01))
    assert [(len(g["params"]), g["lr"]) for g in optimizer.muon.param_groups] == [(0, 0.05), (1, 0.005)]
    before = second.clone()
    train(net, [optimizer], range(2))
    assert torch.equal(second, before)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_resumed_one_goes_on_bit_for_bit(layout):
    whole, parts = network(layout), network(layout)
    train(whole, [MuonForKernels(adam(whole.parameters(), 0.01))], range(6))
    optimizer = MuonForKernels(adam(parts.parameters(), 0.01))
    train(parts, [optimizer], range(3))
    saved, resumed = copy.deepcopy((parts.state_dict(), optimizer.state_dict())), network(layout)
    optimizer = MuonForKernels(adam(resumed.parameters(), 0.01))
    load_states({"net": resumed, "optimizer": optimizer}, dict(zip(("net", "optimizer"), saved, strict=True)))
    train(resumed, [optimizer], range(3, 6))
    assert all(map(torch.equal, whole.state_dict().values(), resumed.state_dict().values()))


def test_either_optimiser_goes_on_from_a_checkpoint_of_the_other():
    """Stage 2 may have another schedule than stage 1. Moments of what both train by Adam are kept."""
    plain, mixed = network(), network()
    before, after = adam(plain.parameters(), 0.01), MuonForKernels(adam(mixed.parameters(), 0.01))
    train(plain, [before], range(2)), train(mixed, [after], range(2))
    last = list(plain.parameters())[-1]
    moved = MuonForKernels(before)
    assert torch.equal(moved.state[last]["exp_avg"], before.state[last]["exp_avg"])
    assert moved.state_dict()["state"].keys() == after.state_dict()["state"].keys()  # none of kernels
    train(plain, [moved], range(2, 4))
    fresh = adam(plain.parameters(), 0.01)
    fresh.load_state_dict(after.state_dict())
    train(plain, [fresh], range(2))
    again = MuonForKernels(adam(mixed.parameters(), 0.01))
    again.load_state_dict(fresh.state_dict())
    train(mixed, [again], range(2))


def test_the_short_schedule_gives_it_to_the_student_alone(monkeypatch):
    student, teacher = (Averaged(net, adam(net.parameters(), 0.01), 0.9) for net in (network(), nn.Linear(3, 2)))
    step = Step("toy", dict, (), (), {})
    on_schedule(step, SimpleNamespace(schedule="short"), student, teacher)
    assert isinstance(student.optimizer, MuonForKernels) and type(teacher.optimizer) is torch.optim.Adam
    assert student.optimizer.param_groups[0]["lr"] == pytest.approx(OTHERS * 0.01)
    assert student.optimizer.muon.param_groups[0]["lr"] == pytest.approx(FACTOR * 0.01)
    tuned = Averaged(network(), adam(network().parameters(), 0.01), 0.9)
    on_schedule(step, SimpleNamespace(schedule="short", weights="file"), tuned)
    assert tuned.optimizer.param_groups[0]["lr"] == 0.01
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(UserError, match=r"--schedule short: needs PyTorch 2\.9 or newer, here 2\."):
        on_schedule(step, SimpleNamespace(schedule="short"), student, teacher)
