"""The moving average: golden numbers, a slow loop, counters left alone, the optimiser swapped."""

import pytest
import torch
from helpers.golden import golden, normal

from methods.averaged import STUDENT, Averaged


def network() -> torch.nn.ModuleDict:
    return torch.nn.ModuleDict({"lin": torch.nn.Linear(3, 2), "bn": torch.nn.BatchNorm1d(2)})


def pair(decay: float, shrink: float) -> Averaged:
    live = network()
    averaged = Averaged(live, torch.optim.SGD(live.parameters(), 0.1), decay, shrink)
    for module, base in ((averaged.ema, 20), (live, 40)):
        for i, value in enumerate(module.state_dict().values()):
            if value.is_floating_point():
                value.copy_(normal(base + i, tuple(value.shape)))
    return averaged


@pytest.mark.parametrize("decays", [True, False])
def test_three_golden_steps(decays):
    averaged = pair(0.9, 0.02 * 0.002 if decays else 0.0)
    for _ in range(3):
        averaged.average()
    expected = golden("losses_ema_interleave.json")[f"ema_decay0.9_lr0.002_3steps_wd{decays}"]
    for module, name in ((averaged.live, "model"), (averaged.ema, "ema")):
        for key, value in module.state_dict().items():
            number = torch.tensor(expected[name][key], dtype=value.dtype)
            torch.testing.assert_close(value, number, rtol=1e-6, atol=1e-7)


def test_slow_loop_and_counters():
    averaged = pair(0.8, 0.01)
    averaged.live.bn.num_batches_tracked.fill_(7)
    before = {
        key: (averaged.live.state_dict()[key].clone(), averaged.ema.state_dict()[key].clone())
        for key in averaged.live.state_dict()
    }
    averaged.average()
    for key, (live, ema) in before.items():
        if key == "bn.num_batches_tracked":
            live_after, ema_after = torch.tensor(7), torch.tensor(0)
        else:
            live_after, ema_after = live * 0.99, 0.8 * ema + 0.2 * live
        torch.testing.assert_close(averaged.live.state_dict()[key], live_after)
        torch.testing.assert_close(averaged.ema.state_dict()[key], ema_after)


def test_average_starts_as_a_copy_in_eval_mode_without_gradients():
    averaged = Averaged(network(), None, 0.9)
    assert not averaged.ema.training
    assert not any(p.requires_grad for p in averaged.ema.parameters())
    assert all(p.requires_grad for p in averaged.live.parameters())
    for a, b in zip(averaged.live.state_dict().values(), averaged.ema.state_dict().values(), strict=True):
        assert torch.equal(a, b)
        assert a.data_ptr() != b.data_ptr()


def test_using_another_optimiser_shares_the_weights():
    averaged = pair(0.9, 0.0)
    other = averaged.using(torch.optim.SGD(averaged.live.parameters(), 1.0))
    before = averaged.live.lin.weight.detach().clone()
    other.descend(averaged.live.lin.weight.sum())
    torch.testing.assert_close(averaged.live.lin.weight.detach(), before - 1)
    assert averaged.optimizer is not other.optimizer
    assert averaged.objects(STUDENT) == {
        "state_dict": averaged.live,
        "ema_state_dict": averaged.ema,
        "optimizer": averaged.optimizer,
    }
