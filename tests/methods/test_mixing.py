"""The three losses against golden numbers; MixMatch, ReMixMatch and their parts against slow, obvious loops."""

import numpy as np
import pytest
import torch
from helpers.golden import golden, integers, normal

from dataset.batches import Batch, Minibatch
from methods import fixmatch, mixmatch, remixmatch
from methods.mixing import draw_mixup, forward_interleaved, interleave, mixup, sharpen
from methods.remixmatch import RunningMean, align, draw_turns, turn
from methods.schedules import linear_rampup

CLASSES, ROWS = 4, 5
GOLDEN = golden("losses_ema_interleave.json")


def probabilities(seed: int, rows: int = ROWS, classes: int = CLASSES) -> torch.Tensor:
    return normal(seed, (rows, classes)).softmax(dim=1)


@pytest.mark.parametrize("epoch, length, expected", GOLDEN["linear_rampup"])
def test_golden_ramp(epoch, length, expected):
    assert linear_rampup(epoch, length) == pytest.approx(expected)


@pytest.mark.parametrize("method, lambda_u", [(fixmatch, None), (mixmatch, 75), (remixmatch, 1.5)])
def test_golden_losses(method, lambda_u):
    logits_x, logits_u = normal(1, (8, 10)), normal(2, (16, 10))
    p, q = probabilities(3, 8, 10), probabilities(4, 16, 10)
    selected = [normal(5, (16,)) > 0] if method is fixmatch else []
    weight = [] if lambda_u is None else [lambda_u * linear_rampup(123.25, 500)]
    losses = [loss.item() for loss in method.semi_loss(logits_x, p, logits_u, q, *selected)]
    assert losses + weight == pytest.approx(GOLDEN[method.__name__.split(".")[1]])


@pytest.mark.parametrize("T", [0.5, 1.0, 2.0])
def test_sharpen(T):
    p = probabilities(1)
    for before, after in zip(p.tolist(), sharpen(p, T).tolist(), strict=True):
        total = sum(value ** (1 / T) for value in before)
        assert after == pytest.approx([value ** (1 / T) / total for value in before])


def test_sharpen_at_a_low_temperature_picks_the_likeliest():
    """Powers of 100 or more underflow; the guess must not."""
    p = torch.tensor([[0.02, 0.01, 0.97], [0.2, 0.5, 0.3], [0.0, 0.4, 0.6]])
    torch.testing.assert_close(sharpen(p, 0.001), torch.tensor([[0.0, 0, 1], [0, 1, 0], [0, 0, 1]]))
    torch.testing.assert_close(sharpen(torch.full((1, 100), 0.01), 0.01), torch.full((1, 100), 0.01))


def test_mixup_blends_rows_and_targets_with_the_same_partner():
    inputs, targets, perm = normal(1, (ROWS, 3, 2, 2)), probabilities(2), [3, 0, 2, 4, 1]
    mixed, mixed_targets = mixup(inputs, targets, torch.tensor(0.7), torch.tensor(perm))
    for i, j in enumerate(perm):
        torch.testing.assert_close(mixed[i], 0.7 * inputs[i] + 0.3 * inputs[j])
        torch.testing.assert_close(mixed_targets[i], 0.7 * targets[i] + 0.3 * targets[j])


def test_mixup_draws_a_large_share_and_a_permutation_from_torchs_generator():
    torch.manual_seed(3)
    drawn = draw_mixup(50, 0.75)
    lam, perm = drawn["mixup_lam"], drawn["mixup_perm"]
    assert (lam.shape, lam.dtype, perm.dtype) == ((), np.float64, np.int32)
    assert sorted(perm.tolist()) == list(range(50)) != perm.tolist()
    torch.manual_seed(3)
    once_more, other = draw_mixup(50, 0.75), draw_mixup(50, 0.75)
    for name, value in drawn.items():
        assert np.array_equal(value, once_more[name]) and not np.array_equal(value, other[name])


@pytest.mark.parametrize("alpha", [0.3, 0.75])
def test_mixups_share_is_the_larger_part_of_a_beta_draw(alpha):
    torch.manual_seed(0)
    lam = np.array([draw_mixup(1, alpha)["mixup_lam"] for _ in range(4000)])
    beta = np.random.RandomState(0).beta(alpha, alpha, 100_000)
    larger = np.maximum(beta, 1 - beta)
    assert 0.5 <= lam.min() < 0.51
    assert 0.99 < lam.max() <= 1
    assert [lam.mean(), lam.std()] == pytest.approx([larger.mean(), larger.std()], abs=0.01)


def numbered(number: int, rows: int) -> list[torch.Tensor]:
    """Batch b holds 100 b, 100 b + 1, ..."""
    return [100 * b + torch.arange(rows) for b in range(number)]


@pytest.mark.parametrize("number, rows", [(4, 8), (3, 7)])
def test_golden_interleave(number, rows):
    got = [batch.tolist() for batch in interleave(numbered(number, rows))]
    assert got == GOLDEN[f"interleave_batch{rows}_of_{number}"]


@pytest.mark.parametrize("number, rows", [(1, 5), (2, 3), (3, 6), (3, 8), (4, 2), (5, 64), (7, 1)])
def test_interleave_swaps_rows_with_batch_0_and_is_its_own_inverse(number, rows):
    batches = numbered(number, rows)
    expected = [batch.tolist() for batch in batches]
    sizes = [rows // number + (i >= number - rows % number) for i in range(number)]
    for row, b in enumerate(np.repeat(range(number), sizes)):
        expected[0][row], expected[b][row] = expected[b][row], expected[0][row]
    mixed = interleave(batches)
    assert [batch.tolist() for batch in mixed] == expected
    assert torch.stack(interleave(mixed)).equal(torch.stack(batches))


def test_mixed_batches_pass_one_after_another_and_logits_come_back_in_order():
    seen = []
    images = torch.cat(numbered(4, 8))
    first, others = forward_interleaved(lambda batch: seen.append(batch.tolist()) or batch + 0.5, images, 8)
    assert seen == GOLDEN["interleave_batch8_of_4"]
    assert torch.cat([first, others]).equal(images + 0.5)
    assert len(first) == 8


def test_turns_are_counter_clockwise_quarters():
    """[[1, 2], [3, 4]] in every channel, by 0 to 3 quarters; then images of noise, one by one."""
    image = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).expand(4, 3, 2, 2)
    expected = [[[1, 2], [3, 4]], [[2, 4], [1, 3]], [[4, 3], [2, 1]], [[3, 1], [4, 2]]]
    assert turn(image, torch.arange(4))[:, 2].tolist() == expected
    images, turns = normal(1, (ROWS, 3, 6, 6)), [3, 0, 1, 1, 2]
    for before, after, k in zip(images, turn(images, torch.tensor(turns)), turns, strict=True):
        assert np.array_equal(after, np.rot90(before, k, axes=(1, 2)))


def test_turns_are_drawn_evenly_from_torchs_generator():
    torch.manual_seed(0)
    turns = draw_turns(4000)["turns"]
    assert turns.dtype == np.int32
    assert np.bincount(turns).tolist() == pytest.approx([1000] * 4, abs=100)
    torch.manual_seed(0)
    assert np.array_equal(turns, draw_turns(4000)["turns"])


def ramp(t: int) -> float:
    return t / 4


@pytest.mark.parametrize(
    ("method", "weights", "n_images"),
    [
        (mixmatch.mixmatch(0.5, 0.75, ramp), {"lambda_u"}, 15),
        (
            remixmatch.remixmatch(0.5, 0.75, ramp, 0.5, ramp, running_mean=RunningMean(CLASSES), target=None),
            {"lambda_u", "w_ent"},
            20,
        ),
    ],
    ids=["mixmatch", "remixmatch"],
)
def test_what_a_step_draws(method, weights, n_images):
    """The weights of step t, and numbers for each image of a batch of ROWS labelled ones."""
    for t in (0, 3, 9):
        numbers = method.draw(t, ROWS)
        assert {name: (numbers[name].dtype, float(numbers[name])) for name in weights} == dict.fromkeys(
            weights, (np.float32, ramp(t))
        )
        assert sorted(numbers["mixup_perm"]) == list(range(n_images))
        others = {"turns"} if "w_ent" in weights else set()
        assert numbers.keys() == weights | others | {"mixup_lam", "mixup_perm"}
        assert all(len(numbers[name]) == ROWS for name in others)


def test_align():
    p, target, mean = probabilities(1), [0.6, 0.3, 0.1, 0.0], [0.0, 0.5, 0.2, 0.3]  # zeros: the guard of both
    aligned = align(p, torch.tensor(target), torch.tensor(mean))
    for before, after in zip(p.tolist(), aligned.tolist(), strict=True):
        moved = [value * (t + 1e-6) / (m + 1e-6) for value, t, m in zip(before, target, mean, strict=True)]
        assert after == pytest.approx([value / sum(moved) for value in moved])


def test_align_with_images_per_class_moves_by_their_shares_alone():
    """As many classes, and as few images of the rarest one, as CIFAR-100 has at gamma 100."""
    counts = torch.tensor([int(150 * 0.01 ** (c / 99)) for c in range(100)])
    p, mean = probabilities(1, classes=100).double(), probabilities(2, classes=100).double().mean(dim=0)
    expected = p * counts / counts.sum() / (mean + 1e-6)
    expected /= expected.sum(dim=1, keepdim=True)
    torch.testing.assert_close(align(p, counts, mean), expected, rtol=2e-6, atol=0)
    assert not torch.allclose(align(p, counts / counts.sum(), mean), expected, rtol=1e-3, atol=0)


def added(running_mean: RunningMean, seeds: range) -> RunningMean:
    for seed in seeds:
        running_mean.add(probabilities(seed))
    return running_mean


def test_running_mean_is_that_of_the_last_128_batch_means():
    running_mean, means = RunningMean(CLASSES), []
    for seed in range(300):
        added(running_mean, range(seed, seed + 1))
        means = [*means, probabilities(seed).mean(dim=0)][-128:]
        torch.testing.assert_close(running_mean(), torch.stack(means).mean(dim=0))
        assert len(running_mean.state_dict()) == len(means)
    assert running_mean.state_dict().equal(torch.stack(means))


@pytest.mark.parametrize("adds, rows", [(0, 0), (5, 5), (120, 120), (128, 128), (150, 128)])
def test_running_mean_continues_from_its_state_bit_for_bit(adds, rows):
    one, two = added(RunningMean(CLASSES), range(adds)), added(RunningMean(CLASSES), range(900, 907))
    state = one.state_dict()
    kept = state.clone()
    assert state.shape == (rows, CLASSES)
    two.load_state_dict(state)
    for seed in range(adds, adds + 20):
        assert added(one, range(seed, seed + 1))().equal(added(two, range(seed, seed + 1))())
    assert one.state_dict().equal(two.state_dict())
    assert state.equal(kept)  # what a checkpoint holds doesn't move with the run


@pytest.mark.parametrize("shape", [(129, CLASSES), (5, CLASSES + 1), (128, CLASSES + 1), (5, 1), (CLASSES,), (128,)])
def test_running_mean_refuses_a_state_that_does_not_fit(shape):
    running_mean = added(RunningMean(CLASSES), range(3))
    before = running_mean.state_dict()
    with pytest.raises(RuntimeError):
        running_mean.load_state_dict(torch.ones(shape))
    assert running_mean.state_dict().equal(before)


class Tiny(torch.nn.Module):
    """A network for images (3, 2, 2) in which no row sees another one."""

    def __init__(self):
        super().__init__()
        self.features = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 6), torch.nn.Tanh())
        self.output, self.rot = torch.nn.Linear(6, CLASSES), torch.nn.Linear(6, 4)

    def forward(self, x):
        return self.output(self.features(x))


def one(network, image: torch.Tensor) -> torch.Tensor:
    """Logits of one image."""
    return network(image[None])[0]


def slow_cross_entropy(network, rows) -> torch.Tensor:
    """Mean over rows (image, target probabilities)."""
    losses = [-sum(target * one(network, image).log_softmax(dim=0)) for image, target in rows]
    return sum(losses) / len(losses)


def slow_sharpen(p: torch.Tensor) -> torch.Tensor:
    return p ** (1 / T) / sum(p ** (1 / T))


LAM, PERM, TURNS, T = 0.8, [7, 3, 18, 0, 12, 1, 9, 16, 2, 14, 19, 4, 11, 5, 8, 17, 6, 10, 13, 15], [3, 1, 0, 2, 1], 0.5


@pytest.fixture
def scene():
    """A network, another head on its features as labeller, images, labels."""
    torch.manual_seed(0)
    model, head = Tiny(), torch.nn.Linear(6, CLASSES)
    head.weight.data.mul_(4)
    x, *u = (normal(seed, (ROWS, 3, 2, 2)) for seed in range(4))
    return model, lambda images: head(model.features(images)), x, integers(5, CLASSES, ROWS), u


def batch_of(x, y, u, **weights: float) -> Batch:
    """The batch of a step that draws LAM, PERM, TURNS and these weights."""
    perm = [j for j in PERM if j < ROWS * (1 + len(u))]
    numbers = {"mixup_lam": torch.tensor(LAM, dtype=torch.float64), "mixup_perm": torch.tensor(perm).int()}
    numbers |= {"turns": torch.tensor(TURNS).int()} | {name: torch.tensor(value) for name, value in weights.items()}
    return Batch(numbers, Minibatch([x], y), Minibatch(u, None))


def slow_mixup(x, y, u, guesses) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Every image with its target, blended one by one: labelled images, then the views, one after another."""
    rows = [(x[i], torch.eye(CLASSES)[y[i]]) for i in range(ROWS)]
    rows += [(view[i], guesses[i]) for view in u for i in range(ROWS)]
    partners = [rows[j] for j in PERM if j < len(rows)]
    return [(LAM * a + (1 - LAM) * b, LAM * p + (1 - LAM) * q) for (a, p), (b, q) in zip(rows, partners, strict=True)]


def assert_same(model, got, expected, logs, parts, pseudo, guesses) -> None:
    """Loss, its gradient (no guess carries one), its parts, and the pseudo-labels."""
    assert logs["loss"] is got
    for value, slow in ((got, expected), *((logs[name], part) for name, part in parts.items())):
        torch.testing.assert_close(value, slow)
    gradients = [torch.autograd.grad(loss, model.parameters(), allow_unused=True) for loss in (got, expected)]
    torch.testing.assert_close(*gradients)
    assert pseudo.guess.tolist() == [guess.argmax().item() for guess in guesses]
    assert pseudo.selected is None


def test_mixmatch(scene):
    model, labeller, x, y, (a, b, _) = scene
    method = mixmatch.mixmatch(T, 0.75, lambda_u=None)
    loss, logs, pseudo = method.loss(model, labeller, batch_of(x, y, [a, b], lambda_u=7.0))
    p_a, p_b = ([one(labeller, image).softmax(dim=0).detach() for image in view] for view in (a, b))
    guesses = [slow_sharpen((p + q) / 2) for p, q in zip(p_a, p_b, strict=True)]
    mixed = slow_mixup(x, y, [a, b], guesses)
    loss_x = slow_cross_entropy(model, mixed[:ROWS])
    errors = [(one(model, image).softmax(dim=0) - target) ** 2 for image, target in mixed[ROWS:]]
    loss_u = sum(error.sum() for error in errors) / (2 * ROWS * CLASSES)
    assert_same(model, loss, loss_x + 7 * loss_u, logs, {"loss_x": loss_x, "loss_u": loss_u}, pseudo, guesses)


@pytest.mark.parametrize("target", [None, torch.tensor([0.6, 0.3, 0.08, 0.02])])
def test_remixmatch(scene, target):
    model, labeller, x, y, (weak, first, second) = scene
    u, running_mean = [weak, first, second], added(RunningMean(CLASSES), range(2))
    settings = {"w_rot": 0.6, "running_mean": running_mean, "target": target}
    method = remixmatch.remixmatch(T, 0.75, lambda_u=None, w_ent=None, **settings)
    loss, logs, pseudo = method.loss(model, labeller, batch_of(x, y, u, lambda_u=1.5, w_ent=0.4))

    raw = [one(labeller, image).softmax(dim=0).detach() for image in weak]
    means = [probabilities(0).mean(dim=0), probabilities(1).mean(dim=0), sum(raw) / ROWS]
    ratio = 1 if target is None else (target + 1e-6) / (sum(means) / 3 + 1e-6)
    guesses = [slow_sharpen(p * ratio / sum(p * ratio)) for p in raw]
    mixed = slow_mixup(x, y, u, guesses)
    turned = [(image.rot90(k, (1, 2)), torch.eye(4)[k]) for image, k in zip(first, TURNS, strict=True)]
    parts = {
        "loss_x": slow_cross_entropy(model, mixed[:ROWS]),
        "loss_u": slow_cross_entropy(model, mixed[ROWS:]),
        "loss_rot": slow_cross_entropy(lambda image: model.rot(model.features(image)), turned),
        "loss_ent": slow_cross_entropy(model, list(zip(first, guesses, strict=True))),
    }
    expected = parts["loss_x"] + 1.5 * parts["loss_u"] + 0.6 * parts["loss_rot"] + 0.4 * parts["loss_ent"]
    assert_same(model, loss, expected, logs, parts, pseudo, guesses)
    torch.testing.assert_close(running_mean.state_dict(), torch.stack(means))
