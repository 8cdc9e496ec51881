"""What a step gets: drawn as a function of (seed, t), and carried as one buffer. The step itself draws nothing, and
asks the same of the device each time.
"""

import random
from contextlib import contextmanager
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from benchmarks.recipe_steps import RECIPES, made_up, recipe_step
from dataset.batches import Batches, Packed
from dataset.images import Images
from dataset.pixels import Pixels
from dataset.stream import Stream
from methods.classifier import tfe
from methods.mixmatch import mixmatch
from methods.step import CO_LEARNING

META = torch.device("meta")


def small(recipe: str, device: torch.device | None = None):
    flags = ["--gpu", "cpu", "--num_max", 40, "--imb_ratio_l", 5, "--imb_ratio_u", 5, "--batch-size", 8]
    flags += ["--depth", 10, "--width", 1, *["--align"] * ("remix" in recipe)]
    return recipe_step(recipe, made_up(2000, 100, size=16), *flags, device=device)


# --- A step draws nothing ---


class NoTorchDraws(TorchDispatchMode):
    """Raises where an operation of PyTorch draws."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if torch.Tag.nondeterministic_seeded in function.tags:
            raise AssertionError(f"{function} draws")
        return function(*args, **(kwargs or {}))


@contextmanager
def drawing_raises():
    with patch("numpy.random.default_rng", side_effect=AssertionError("NumPy draws")), NoTorchDraws():
        yield


def states() -> list:
    """Of all generators that a process has from the start."""
    numpys = np.random.get_bit_generator().state["state"]
    return [torch.get_rng_state().tolist(), numpys["key"].tolist(), numpys["pos"], random.getstate()]


def assert_draws_nothing(step, batches) -> None:
    for t in range(2):
        batch = batches.at(t)
        before = states()
        with drawing_raises():
            logs = step(batch)
        assert states() == before
        assert logs["loss"].isfinite()


@pytest.mark.parametrize("recipe", [*RECIPES, "train_cifar_supervised"])
def test_a_step_draws_nothing(recipe):
    it = small(recipe)
    assert_draws_nothing(it.step, it.batches)


@pytest.mark.parametrize("data_set", ["food", "small_imagenet127"])
@pytest.mark.parametrize("stage", ["", "_cossl"])
def test_a_step_of_other_data_sets_draws_nothing(data_set, stage, of_data_set):
    it = of_data_set(data_set, stage)
    assert_draws_nothing(it.step, it.batches)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: torch.rand(2),
        lambda: torch.randint(0, 4, (2,)),
        lambda: torch.randperm(3),
        lambda: torch.zeros(3).uniform_(),
        lambda: torch.distributions.Beta(0.75, 0.75).sample(),
        lambda: torch.nn.functional.dropout(torch.ones(3)),
        lambda: np.random.default_rng(0),
    ],
    ids=["rand", "randint", "randperm", "in place", "Beta", "dropout", "NumPy"],
)
def test_a_draw_would_be_seen(draw):
    """The proof proves something."""
    draw()
    with drawing_raises(), pytest.raises(AssertionError, match="draws"):
        draw()


# --- A step is the same for each t ---


class Record(TorchDispatchMode):
    """calls: the operations, with types and shapes of their tensors, and all that they get besides; but for an
    optimiser's, which on a GPU counts its steps there and here on the host.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.optimising = [], False

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        leaves = tree_map(lambda leaf: self.seen(leaf), (args, kwargs, result))
        self.calls.append((str(function), tree_leaves(leaves)))
        return result

    def seen(self, leaf):
        if isinstance(leaf, torch.Tensor):
            assert leaf.is_meta or not leaf.numel() or self.optimising
            return str((leaf.dtype, tuple(leaf.shape)))
        return None if self.optimising else str(leaf)


def recorded(it, t: int) -> list:
    """The operations of a step, from its numbers on the device on."""
    words, original = torch.from_numpy(it.batches.draw(t)).to(META), torch.optim.Adam.step

    def optimising(optimizer, *args):
        record.optimising = True
        original(optimizer, *args)
        record.optimising = False

    with patch.object(torch.optim.Adam, "step", optimising), Record() as record:
        it.step(it.batches.make(words))
    return record.calls


def assert_the_same_for_each_t(it) -> None:
    """Operations, shapes, and numbers that would be frozen in a graph. On `meta` a read by the host raises."""
    it.step(it.batches.at(0))  # makes the optimisers' state
    first = recorded(it, 1)
    assert len(first) > 100
    for t in (2, 77, 200_000):
        for earlier, later in zip(first, recorded(it, t), strict=True):
            assert earlier == later


@pytest.mark.filterwarnings("ignore:.*to a meta parameter")
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_step_asks_the_same_of_the_device_for_each_t(recipe):
    assert_the_same_for_each_t(small(recipe, META))


@pytest.mark.filterwarnings("ignore:.*to a meta parameter")
@pytest.mark.parametrize("stage", ["", "_cossl"])
def test_so_it_does_where_pixels_travel_in_the_buffer(stage, of_data_set):
    it = of_data_set("small_imagenet127", stage, "meta")
    assert "pixels" in it.batches.packed.layout
    assert_the_same_for_each_t(it)


# --- Packed ---

ARRAYS = {
    "bytes": np.arange(48, dtype=np.uint8).reshape(2, 2, 12),
    "float": np.array([[0.1, -2.5, np.pi]], np.float32),
    "double": np.array(0.1),
    "whole": np.array([[1, -(2**31)], [2**31 - 1, 0], [5, 6]], np.int32),
    "single": np.array(1.5, np.float32),
    "none": np.zeros((0, 4), np.int32),
    "doubles": np.array([1e-300, 1 / 3]),
}


@pytest.mark.parametrize("order", [list(ARRAYS), list(ARRAYS)[::-1]], ids=["in order", "reversed"])
def test_packed_arrays_come_back_as_they_were(order):
    packed = Packed({name: ARRAYS[name] for name in order})
    words = packed.pack(ARRAYS)
    assert (words.dtype, words.shape) == (np.int32, (12 + 3 + 2 + 6 + 1 + 4,))
    for name, tensor in packed.unpack(torch.from_numpy(words)).items():
        array = ARRAYS[name]
        assert (tensor.numpy().dtype, tensor.shape) == (array.dtype, array.shape)
        assert np.array_equal(tensor.numpy(), array)
    assert packed.unpack(torch.from_numpy(words)).keys() == ARRAYS.keys()


def test_what_lies_otherwise_in_memory_is_packed_alike():
    transposed = ARRAYS | {"whole": np.asfortranarray(ARRAYS["whole"])}
    packed = Packed(ARRAYS)
    assert np.array_equal(packed.pack(transposed), packed.pack(ARRAYS))


def test_unpacked_tensors_are_views_of_the_buffer():
    """So that a graph which reads them reads what is copied there later."""
    packed = Packed(ARRAYS)
    words = torch.from_numpy(packed.pack(ARRAYS))
    tensors = packed.unpack(words)
    assert {tensor.untyped_storage().data_ptr() for tensor in tensors.values()} == {words.data_ptr()}
    later = {name: array + array.dtype.type(1) for name, array in ARRAYS.items()}
    words.copy_(torch.from_numpy(packed.pack(later)))
    assert all(np.array_equal(tensor.numpy(), later[name]) for name, tensor in tensors.items())


@pytest.mark.parametrize(
    "arrays",
    [
        ARRAYS | {"whole": np.zeros((2, 3), np.int32)},
        ARRAYS | {"whole": np.zeros((4, 2), np.int32)},
        ARRAYS | {"whole": np.zeros((3, 2), np.float32)},
        ARRAYS | {"double": np.zeros(1)},
        ARRAYS | {"another": np.zeros(1)},
        {name: array for name, array in ARRAYS.items() if name != "none"},
    ],
    ids=["shape", "more", "type", "dimensions", "another", "one less"],
)
def test_other_arrays_are_refused(arrays):
    with pytest.raises(ValueError, match="other names, types or shapes"):
        Packed(ARRAYS).pack(arrays)


# --- Batches ---

COUNTS = torch.tensor([24, 12, 4])


def toy_streams() -> dict[str, Stream]:
    """40 images of noise in three classes; a batch has 8 rows, 16 of unlabelled images."""
    labels = np.repeat(np.arange(3), COUNTS)
    pixels = np.random.RandomState(0).randint(0, 256, (40, 3, 16, 16)).astype(np.uint8)
    images = Pixels(Images(pixels, labels), (0.5,) * 3, (0.25,) * 3, torch.device("cpu"))
    wanted = {"labelled": ("weak",), "unlabelled": ("weak", "strong"), "balanced": ("strong",), "partners": ("plain",)}
    sizes = {"labelled": 8, "unlabelled": 16, "balanced": 8, "partners": 8}
    members = np.random.RandomState(1).permutation(40)
    return {
        name: Stream(name, images, members, views, sizes[name], 3, balanced=name == "balanced")
        for name, views in wanted.items()
    }


def toy_batches(seed: int = 3, name: str = "step") -> Batches:
    method, learner = mixmatch(0.5, 0.75, lambda t: t / 8), tfe(COUNTS, 0.6)
    return Batches(toy_streams(), [method.draw, learner.draw], seed, name)


def test_draws_are_a_function_of_seed_and_t():
    """In any order of asking, and whatever was drawn between."""
    batches, times = toy_batches(), range(12)  # over the end of a pass
    expected = [batches.draw(t) for t in times]
    assert len({words.tobytes() for words in expected}) == len(times)
    assert {(words.dtype, words.shape) for words in expected} == {(np.dtype(np.int32), expected[0].shape)}
    for again in (batches, toy_batches()):
        for t in np.random.RandomState(2).permutation(times).tolist():
            torch.rand(t + 1)
            torch.manual_seed(t)
            np.random.get_bit_generator().random_raw(3)
            random.random()
            assert np.array_equal(again.draw(t), expected[t])


@pytest.mark.parametrize("other", [{"seed": 4}, {"name": "warm-up"}])
def test_another_seed_or_name_gives_other_numbers(other):
    """Those of the streams are theirs."""
    a, b = (toy_batches(**settings).at(5).numbers for settings in ({}, other))
    assert a.keys() == b.keys() == {"lambda_u", "mixup_lam", "mixup_perm", "coins"}
    assert {name for name in a if torch.equal(a[name], b[name])} == {"lambda_u"}


def test_data_gives_batches_of_their_own_under_another_name():
    it = small("train_cifar_fix_cossl")
    names = {}, {}, {"name": "warm-up"}
    usual, same, other = (it.data.batches(CO_LEARNING, *it.batches.draws, **name) for name in names)
    assert np.array_equal(usual.draw(4), same.draw(4))
    a, b = usual.at(4), other.at(4)
    assert not torch.equal(a.numbers["coins"], b.numbers["coins"])
    for name in CO_LEARNING:
        assert not torch.equal(getattr(a, name).views[0], getattr(b, name).views[0])


def test_a_batch_is_made_of_its_words_alone():
    batches = toy_batches()
    words = batches.draw(6)
    expected = batches.at(6)
    batches.draw(9)
    made = batches.make(torch.from_numpy(words.copy()), words)
    assert made.numbers.keys() == expected.numbers.keys()
    assert all(torch.equal(value, expected.numbers[name]) for name, value in made.numbers.items())
    for name, stream in batches.streams.items():
        one, other = getattr(made, name), getattr(expected, name)
        assert [view.shape for view in one.views] == [(stream.batch_size, 3, 16, 16)] * len(stream.wanted)
        assert torch.equal(one.labels, other.labels) and all(map(torch.equal, one.views, other.views))
    assert expected.numbers["lambda_u"] == 6 / 8
    types = {name: value.dtype for name, value in made.numbers.items()}
    assert (types["mixup_lam"], types["lambda_u"]) == (torch.float64, torch.float32)


def test_a_step_that_draws_other_shapes_is_refused():
    batches = Batches(toy_streams(), [lambda t, rows: {"number": np.zeros(1 + t // 5, np.float32)}], 3)
    batches.at(4)
    with pytest.raises(ValueError, match="other names, types or shapes"):
        batches.at(5)


def test_ranks_share_a_batch(as_rank):
    """Their rows together are the whole batch of one process; their numbers are for rows of their own."""
    for t in (0, 7):
        as_rank(0, of=1)
        whole, parts = toy_batches().at(t), []
        for rank in (0, 1):
            as_rank(rank)
            batches = toy_batches()
            words = batches.draw(t)
            batches.draw(3)
            torch.rand(rank)
            assert np.array_equal(batches.draw(t), words)
            parts.append(batches.at(t))
        for name in CO_LEARNING:
            zero, one, both = (getattr(batch, name) for batch in (*parts, whole))
            assert torch.equal(torch.cat([zero.labels, one.labels]), both.labels)
            for a, b, view in zip(zero.views, one.views, both.views, strict=True):
                assert len(a) == len(b) and torch.equal(torch.cat([a, b]), view)
        zero, one = (part.numbers for part in parts)
        assert zero["coins"].shape == one["coins"].shape == (2, 4)
        assert sorted(zero["mixup_perm"].tolist()) == sorted(one["mixup_perm"].tolist()) == list(range(12))
        assert not torch.equal(zero["coins"], one["coins"]) and zero["mixup_lam"] != one["mixup_lam"]
