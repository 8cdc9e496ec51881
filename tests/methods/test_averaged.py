"""The moving average: golden numbers, a slow loop, counters left alone, the optimiser swapped, states loaded."""

import pytest
import torch
from helpers.golden import golden, normal

from methods.averaged import STUDENT, Averaged, adam, load_states
from methods.classifier import head_adam
from utils.errors import UserError


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


def test_what_an_optimiser_has_besides_the_network_is_averaged_over_ranks_too(monkeypatch):
    it, other, seen = network(), torch.nn.Linear(2, 2), []
    monkeypatch.setattr("methods.averaged.mean_over_ranks", lambda tensors: seen.extend(map(id, tensors)))
    averaged = Averaged(it, torch.optim.SGD([*it.parameters(), *other.parameters()], 0.1), 0.9)
    averaged.descend(sum(parameter.sum() for parameter in (*it.parameters(), *other.parameters())))
    learning = [parameter.grad for parameter in (*it.parameters(), *other.parameters())]
    assert {*map(id, learning)} <= {*seen}


def trained(**options) -> torch.optim.Adam:
    parameter = torch.nn.Parameter(torch.arange(4.0))
    adam = torch.optim.Adam([parameter], 0.1, **options)
    parameter.grad = torch.ones(4)
    adam.step()
    return adam


@pytest.mark.parametrize("then", [False, True])
@pytest.mark.parametrize("now", [False, True])
def test_a_plain_adam_goes_on_as_a_fused_one_and_back(then, now):
    """A published checkpoint's Adam isn't fused; on a GPU a fused one's count of steps must lie there."""
    saved = trained(fused=then).state_dict()
    adam = trained(fused=now)
    load_states({"optimizer": adam}, {"optimizer": saved})
    (parameter,) = adam.param_groups[0]["params"]
    assert adam.param_groups[0]["fused"] is now
    assert adam.state[parameter]["step"].device == parameter.device
    adam.step()
    assert adam.state[parameter]["step"] == 2


@pytest.mark.parametrize("then", [torch.channels_last, torch.contiguous_format])
def test_moments_lie_as_the_weights_do_whatever_a_checkpoint_had(then):
    """Fused optimisers go through memory, not through indices: a run resumed without --channels_last would mix them."""
    now = torch.contiguous_format if then == torch.channels_last else torch.channels_last

    def trained(layout: torch.memory_format) -> torch.optim.Adam:
        parameter = torch.nn.Parameter(torch.arange(48.0).reshape(2, 3, 2, 4).contiguous(memory_format=layout))
        parameter.grad = torch.arange(48.0).reshape(2, 3, 2, 4).contiguous(memory_format=layout)
        optimizer = torch.optim.Adam([parameter], 0.1, fused=True)
        optimizer.step()
        return optimizer

    before, after = trained(then), trained(now)
    load_states({"optimizer": after}, {"optimizer": before.state_dict()})
    (parameter,), (then_parameter,) = after.param_groups[0]["params"], before.param_groups[0]["params"]
    moments = after.state[parameter]
    assert moments["exp_avg"].stride() == moments["exp_avg_sq"].stride() == parameter.stride()
    assert torch.equal(moments["exp_avg"], before.state[then_parameter]["exp_avg"])
    before.step(), after.step()
    assert torch.equal(parameter, then_parameter)


def saved_states(averaged: Averaged) -> dict:
    return {key: thing.state_dict() for key, thing in averaged.objects(STUDENT).items()} | {"file": "x.pth.tar"}


def test_loading_takes_weights_and_moments_and_keeps_the_rates_of_today():
    before, after = (Averaged(network(), None, 0.9) for _ in range(2))
    before.optimizer, after.optimizer = adam(before.live.parameters(), 0.1, 0.5), adam(after.live.parameters(), 0.2)
    before.descend(before.live.lin.weight.square().sum())
    saved = saved_states(before)
    after.load(saved)
    for now, then in ((after.live, before.live), (after.ema, before.ema)):
        assert all(map(torch.equal, now.state_dict().values(), then.state_dict().values()))
    (group,), moments = after.optimizer.param_groups, after.optimizer.state_dict()["state"]
    assert (group["lr"], group["weight_decay"]) == (0.2, 0.0)
    assert moments.keys() == saved["optimizer"]["state"].keys()
    assert torch.equal(moments[0]["exp_avg"], saved["optimizer"]["state"][0]["exp_avg"])


@pytest.mark.parametrize("key", STUDENT)
def test_states_of_another_network_are_refused_by_name(key):
    averaged, other = (Averaged(network(), None, 0.9) for _ in range(2))
    for it in (averaged, other):
        it.optimizer = adam(it.live.parameters(), 0.1)
    wrong = torch.nn.Linear(5, 7)
    wrong = {"optimizer": adam([wrong.weight], 0.1).state_dict()}.get(key, wrong.state_dict())
    problem = f"x.pth.tar: its {key} doesn't fit this network; give the --dataset, --arch, --width and --depth"
    for state in (saved_states(other) | {key: wrong}, {k: v for k, v in saved_states(other).items() if k != key}):
        with pytest.raises(UserError, match=problem):
            averaged.load(state)


def test_weight_decay_of_a_head_spares_its_bias():
    head = torch.nn.Linear(3, 2)
    weight, bias = head_adam(head, 0.1, 0.5).param_groups
    assert (weight["params"], bias["params"]) == ([head.weight], [head.bias])
    assert (weight["weight_decay"], bias["weight_decay"], weight["lr"], bias["lr"]) == (0.5, 0.0, 0.1, 0.1)
