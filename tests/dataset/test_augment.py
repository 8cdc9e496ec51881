"""Augmentation: equal to the golden arrays and to Pillow, bit for bit; the draws; the seams (device, determinism).

Shape legend: B images (B, 3, H, W), as Pillow sees them (B, H, W, 3).
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as TF

from benchmarks.augmentation import natural
from benchmarks.pillow import (
    PILLOW,
    RandAugmentDraw,
    draw_crop_flip,
    draw_hole,
    draw_randaugment10,
    draw_randaugment30,
    draw_views,
    pillow_randaugment,
    pillow_views,
)
from dataset.augment import apply_crop_flip, apply_hole, normalise
from dataset.pillow_ops import cutout
from dataset.randaugment import (
    FUNCTIONS,
    OPERATION_NAMES,
    OPERATIONS,
    POOL10,
    POOL30,
    apply_layers,
    numbers_of,
    pool10_values,
    pool30_values,
)
from dataset.render import render, render_in_batches
from dataset.rows import draw_layers10, draw_layers30, draw_rows

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)
GOLDEN = Path(__file__).parent.parent / "golden" / "augment.npz"


def channels_first(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def channels_last(images: torch.Tensor) -> np.ndarray:
    return np.ascontiguousarray(images.numpy().transpose(0, 2, 3, 1))


def one_operation(names: list[str], values: list[float], positions: np.ndarray) -> RandAugmentDraw:
    """A draw of one layer: an operation, a value and a position for each image."""
    operation = np.array([OPERATION_NAMES.index(name) for name in names])
    return RandAugmentDraw(operation[:, None], np.array(values, dtype=float)[:, None], positions[:, None])


def layers_of(draw: RandAugmentDraw, height: int, width: int) -> np.ndarray:
    """int32 (B, L, 8): what Pillow's numbers are to `apply_layers`, one by one."""
    layers = np.zeros((*draw.operation.shape, 8), np.int32)
    for place in np.ndindex(draw.operation.shape):
        operation, value, (x, y) = draw.operation[place], draw.value[place], draw.position[place]
        function = OPERATIONS[OPERATION_NAMES[operation]][0]
        numbers = [*numbers_of(operation, value, height, width)]
        if function is cutout:
            left, top = (int(max(0, centre - value / 2)) for centre in (x, y))
            numbers[:4] = left, int(min(width, left + value)), top, int(min(height, top + value))
        layers[place] = FUNCTIONS.index(function), *numbers
    return layers


def apply_randaugment(images: torch.Tensor, draw: RandAugmentDraw) -> torch.Tensor:
    return apply_layers(images, layers_of(draw, *images.shape[2:]))


def views(pixels: torch.Tensor, names: tuple, seed: int, **options) -> tuple[torch.Tensor, ...]:
    """The views of all pixels (B, 3, S, S), drawn from a seed."""
    rows = draw_rows(np.random.default_rng(seed), np.arange(len(pixels)), names, pixels.shape[3], **options)
    rows = rows.reshape(-1, rows.shape[2])
    look = torch.tensor([*MEAN, *STD]).to(pixels.device)
    return render(pixels, torch.from_numpy(rows).to(pixels.device), look, rows).split(len(pixels))


def by_pillow(images: torch.Tensor, draw: RandAugmentDraw) -> np.ndarray:
    pictures = map(Image.fromarray, channels_last(images))
    return np.stack([np.asarray(pillow_randaugment(picture, draw, row)) for row, picture in enumerate(pictures)])


# --- Golden arrays ---


def recorded(seed: int, count: int = 10) -> list:
    """NumPy's legacy generator of each golden image."""
    return [np.random.RandomState(seed + i) for i in range(count)]


def golden_operation(images: torch.Tensor, key: str) -> torch.Tensor:
    """key: randaugment30/OPERATION/mM/pos or neg, likewise randaugment10."""
    pool, name, m, sign = key.split("/")
    name = name.removesuffix("abs")
    values = pool30_values(int(m[1:])) if pool == "randaugment30" else pool10_values(int(m[1:]), 32)
    value = -values[name] if sign == "neg" else values[name]
    positions = np.stack([q.rand(2) * 32 for q in recorded(700 if pool == "randaugment30" else 800)])
    return apply_randaugment(images, one_operation([name] * 10, [value] * 10, positions))


def golden_cutout_abs(images: torch.Tensor) -> torch.Tensor:
    """The hole that ends RandAugment of the Food pool."""
    positions = np.stack([q.rand(2) * 32 for q in recorded(950)])
    return apply_randaugment(images, one_operation(["Cutout"] * 10, [16] * 10, positions))


def golden_crop_flip(images: torch.Tensor) -> torch.Tensor:
    numbers = [(q.randint(9), q.randint(9), q.randint(2)) for q in recorded(990)]
    return apply_crop_flip(images, np.array(numbers).T)


def golden_hole(images: torch.Tensor) -> torch.Tensor:
    numbers = [(q.randint(32), q.randint(32)) for q in recorded(900)]
    return apply_hole(images.float() / 255, np.array(numbers).T)


def test_every_golden_array():
    golden = dict(np.load(GOLDEN))
    images = channels_first(golden.pop("images"))
    results = {
        "cutout_abs16/uint8_hwc": channels_last(golden_cutout_abs(images)),
        "crop_flip/uint8_hwc": channels_last(golden_crop_flip(images)),
        "cutout_default16/float_chw": golden_hole(images).numpy(),
    }
    results |= {k: channels_last(golden_operation(images, k)) for k in golden if k.startswith("randaugment")}
    assert results.keys() == golden.keys()
    assert len(results) == 132
    for key, result in results.items():
        np.testing.assert_array_equal(result, golden[key], err_msg=key, strict=True)


# --- Against Pillow, on images and magnitudes of all kinds ---


def images_of_all_kinds(rng: np.random.Generator, n: int, height: int, width: int) -> torch.Tensor:
    """Noise, smooth, low contrast, constant, two levels, few levels, dark with one bright pixel: n // 7 of each."""
    shape = (n // 7, 3, height, width)
    level = rng.integers(0, 256, (n // 7, 3, 1, 1))
    noise = rng.integers(0, 256, shape)
    smooth = natural(rng, n // 7, max(height, width))[:, :, :height, :width]
    faint = level + rng.integers(-3, 4, shape)
    binary = np.where(rng.random(shape) < rng.random((n // 7, 1, 1, 1)), level, rng.integers(0, 256, level.shape))
    few = noise // 60 * 60
    dot = np.where(np.arange(height * width).reshape(height, width) == 5, 255, level // 8)
    kinds = [noise, smooth, faint, np.broadcast_to(level, shape), binary, few, np.broadcast_to(dot, shape)]
    return torch.from_numpy(np.concatenate(kinds).clip(0, 255).astype(np.uint8))


def any_value(rng: np.random.Generator, name: str, size: int) -> float:
    """A magnitude of an operation, beyond what the pools hold, and now and then a special one."""
    factor, side = (-0.5, 3.0, (0, 1)), (0, 1.5 * size, (0, 1, size // 2, 2.5))
    shift = (-1.2 * size, 1.2 * size, (0, 0.5, -0.5, 3, -7, 1.5, size, -size))
    low, high, special = {
        "Rotate": (-400, 400, (0, 30, -30, 45, 90, 180, 270, 360)),
        "Posterize": (0, 8.9, (0, 4, 8)),
        "Solarize": (-5, 300, (0, 256, 128)),
        "SolarizeAdd": (-130, 130, (0, 110, -110)),
        "ShearX": (-1, 1, (0, 0.3, 0.5)),
        "ShearY": (-1, 1, (0, -0.3, -0.5)),
        "TranslateX": shift,
        "TranslateY": shift,
        "CutoutAbs": side,
        "Cutout": side,
        "Brightness": factor,
        "Contrast": factor,
        "Color": factor,
        "Sharpness": factor,
    }.get(name, (0, 1, (0,)))
    return float(rng.choice(special)) if rng.random() < 0.2 else rng.uniform(low, high)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (28, 28), (32, 32), (64, 64), (21, 40)])
def test_operations_equal_pillow(height: int, width: int):
    rng = np.random.default_rng(height)
    images = images_of_all_kinds(rng, 4000, height, width)
    images = images[torch.from_numpy(rng.permutation(len(images)))]
    names = [OPERATION_NAMES[i] for i in rng.integers(len(OPERATION_NAMES), size=len(images))]
    values = [any_value(rng, name, width) for name in names]
    draw = one_operation(names, values, rng.random((len(images), 2)) * (width, height))
    expected = by_pillow(images, draw)
    same = (channels_last(apply_randaugment(images, draw)) == expected).all((1, 2, 3))
    changed = (channels_last(images) != expected).any((1, 2, 3))
    assert set(names) == set(PILLOW)
    assert changed.mean() > 0.6  # the operations did something
    assert same.all(), {(names[i], values[i]) for i in np.flatnonzero(~same)[:10]}


@pytest.mark.parametrize("draw_pool", [draw_randaugment30, draw_randaugment10])
@pytest.mark.parametrize("size", [16, 32, 64])
def test_layers_equal_pillow(draw_pool, size: int):
    rng = np.random.default_rng(size)
    images = images_of_all_kinds(rng, 210, size, size)
    draw_layers = {draw_randaugment10: draw_layers10, draw_randaugment30: draw_layers30}[draw_pool]
    for m in (2, 4, 10) if draw_pool is draw_randaugment10 else (0, 4, 17.5, 30):
        draw, layers = (one(np.random.default_rng(size), len(images), size, m=m) for one in (draw_pool, draw_layers))
        np.testing.assert_array_equal(layers, layers_of(draw, size, size))
        np.testing.assert_array_equal(channels_last(apply_layers(images, layers)), by_pillow(images, draw))


@pytest.mark.parametrize("names", [("weak", "strong", "strong"), ("plain", "strong", "weak"), ("weak", "weak")])
@pytest.mark.parametrize(("size", "flip", "pixel_scale"), [(32, True, 1.0), (16, False, 0.5), (28, True, 1.0)])
def test_views_equal_one_image_at_a_time(names: tuple, size: int, flip: bool, pixel_scale: float):
    pixels = torch.from_numpy(natural(np.random.default_rng(1), 48, size))
    options = {"flip": flip, "pixel_scale": pixel_scale}
    draw = draw_views(np.random.default_rng(2), names, 48, size, **options)
    expected = pillow_views(channels_last(pixels), names, draw, MEAN, STD)
    got = views(pixels, names, 2, **options)
    assert [(v.shape, v.dtype) for v in got] == [((48, 3, size, size), torch.float32)] * len(names)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def test_plain_is_normalised_only():
    pixels = torch.from_numpy(natural(np.random.default_rng(1), 8, 32))
    (plain,) = views(pixels, ("plain",), 2)
    assert torch.equal(plain, normalise(pixels, torch.tensor(MEAN), torch.tensor(STD)))


def test_normalise_equals_torchvision():
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16).contiguous()
    for mean, std in [(MEAN, STD), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]:
        expected = TF.normalize(TF.to_tensor(channels_last(levels)[0]), mean, std)
        assert torch.equal(normalise(levels, torch.tensor(mean), torch.tensor(std))[0], expected)


# --- Crop, flip, hole: against loops, at the rim ---


def test_crop_flip_equals_a_loop():
    size, pad = 16, 2
    rng = np.random.default_rng(0)
    corners = [(top, left, flip) for top in range(2 * pad + 1) for left in range(2 * pad + 1) for flip in (0, 1)]
    images = torch.from_numpy(rng.integers(1, 256, (len(corners), 3, size, size), dtype=np.uint8))
    got = apply_crop_flip(images, np.array(corners).T)
    for image, (top, left, flip), result in zip(images.numpy(), corners, got.numpy(), strict=True):
        padded = np.pad(image, ((0, 0), (pad, pad), (pad, pad)))
        crop = padded[:, top : top + size, left : left + size]
        np.testing.assert_array_equal(result, crop[:, :, ::-1] if flip else crop)


def test_holes_are_clipped_at_the_rim():
    y, x = (numbers.ravel() for numbers in np.mgrid[:16, :16])
    holes = (apply_hole(torch.ones(256, 3, 16, 16), np.stack([y, x])) == 0).sum((1, 2, 3)) // 3
    rows = np.array([min(16, i + 4) - max(0, i - 4) for i in range(16)])
    np.testing.assert_array_equal(holes.view(16, 16).numpy(), np.outer(rows, rows))
    assert holes.min() == 16
    assert holes.max() == 64


# --- The draws ---


def test_pool30_is_drawn_evenly():
    draw = draw_randaugment30(np.random.default_rng(0), 20_000, 32)
    assert draw.operation.shape == draw.value.shape == (20_000, 3)
    counts = np.bincount(draw.operation.ravel(), minlength=len(OPERATION_NAMES))
    assert {OPERATION_NAMES[i] for i in np.flatnonzero(counts)} == set(POOL30)
    np.testing.assert_allclose(counts[counts > 0], 60_000 / 16, rtol=0.06)
    values = pool30_values(4)
    for name, (*_, signed) in POOL30.items():
        drawn = draw.value[draw.operation == OPERATION_NAMES.index(name)]
        np.testing.assert_allclose(np.abs(drawn), values[name])
        assert abs((drawn < 0).mean() - 0.5 * signed) < 0.04 * signed + 1e-9, name


def test_squares_of_pool30_lie_where_numpys_uniform_of_one_number_puts_them():
    """uniform(32) is 32 + (1 - 32) u, so that no centre lies in the first pixel; against a loop over such draws."""
    layers = draw_layers30(np.random.default_rng(0), 200_000, 32)
    squares = layers[layers[:, :, 0] == FUNCTIONS.index(cutout)]
    side, legacy, edges = pool30_values(4)["CutoutAbs"], np.random.RandomState(0), []
    for _ in range(200_000):
        first = int(max(0, legacy.uniform(32) - side / 2))
        edges.append((first, int(min(32, first + side))))
    for drawn in (squares[:, 1:3], squares[:, 3:5]):
        for got, expected in zip(drawn.T, np.array(edges).T, strict=True):
            shares = [np.bincount(values, minlength=33) / len(values) for values in (got, expected)]
            np.testing.assert_allclose(*shares, atol=0.004)


def test_pool10_is_drawn_evenly_and_ends_in_a_grey_square():
    draw = draw_randaugment10(np.random.default_rng(0), 20_000, 224)
    names = np.array(OPERATION_NAMES)[draw.operation]
    assert (names[:, 2] == "Cutout").all()
    assert (draw.value[:, 2] == 112).all()
    applied = names[:, :2] != "Identity"
    assert abs(applied.mean() - 0.5) < 0.01
    kinds, counts = np.unique(names[:, :2][applied], return_counts=True)
    assert set(kinds) == set(POOL10)
    np.testing.assert_allclose(counts, applied.sum() / 16, rtol=0.12)
    for name, (_, signed) in POOL10.items():
        drawn = draw.value[:, :2][names[:, :2] == name]
        magnitudes = {pool10_values(v, 224)[name] for v in range(1, 10)}
        assert set(np.abs(drawn)) == magnitudes
        assert abs((drawn < 0).mean() - 0.5 * signed) < 0.06 * signed + 1e-9, name


def test_pixel_scale_touches_what_is_in_pixels():
    whole, half = pool30_values(6), pool30_values(6, pixel_scale=0.5)
    assert {name for name in whole if whole[name] != half[name]} == {"CutoutAbs", "TranslateX", "TranslateY"}
    assert half["TranslateX"] == whole["TranslateX"] / 2 == 10


def test_crops_flips_and_holes_are_uniform():
    rng = np.random.default_rng(0)
    draw = draw_crop_flip(rng, 9_000, 32)
    for numbers in (draw.top, draw.left):
        np.testing.assert_allclose(np.bincount(numbers, minlength=9), 1000, rtol=0.15)
    assert np.bincount(draw.top).shape == np.bincount(draw.left).shape == (9,)
    np.testing.assert_allclose(np.bincount(draw.flip), [4500, 4500], rtol=0.05)
    assert not draw_crop_flip(rng, 9_000, 32, flip=False).flip.any()
    for numbers in draw_hole(rng, 32_000, 32):
        np.testing.assert_allclose(np.bincount(numbers), np.full(32, 1000), rtol=0.15)


# --- Seams ---


def test_views_on_the_meta_device():
    """Raises where a value is read on the host, or where a tensor stays behind on the CPU."""
    pixels = torch.empty(8, 3, 32, 32, dtype=torch.uint8, device="meta")
    for names in [("strong", "weak", "plain", "strong"), ("weak",), ("plain",)]:
        rows = draw_rows(np.random.default_rng(0), np.arange(8), names, 32).reshape(len(names) * 8, -1)
        batched = render_in_batches(pixels, rows, torch.empty(6, device="meta")).split(8)
        for view in (*views(pixels, names, 0), *batched):
            assert (view.device.type, view.shape, view.dtype) == ("meta", pixels.shape, torch.float32)
    assert apply_layers(pixels, draw_layers10(np.random.default_rng(0), 8, 32)).shape == pixels.shape


def test_every_operation_runs_on_the_meta_device():
    pixels = torch.empty(len(OPERATION_NAMES), 3, 32, 32, dtype=torch.uint8, device="meta")
    draw = one_operation(list(OPERATION_NAMES), [1.0] * len(OPERATION_NAMES), np.ones((len(OPERATION_NAMES), 2)))
    assert apply_randaugment(pixels, draw).device.type == "meta"


def test_one_seed_gives_one_batch():
    pixels, names = torch.from_numpy(natural(np.random.default_rng(3), 16, 32)), ("weak", "strong", "strong")
    once, again, other = (views(pixels, names, seed) for seed in (5, 5, 6))
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(once, other, strict=True))
    assert not torch.equal(once[1], once[2])
    assert torch.equal(pixels, torch.from_numpy(natural(np.random.default_rng(3), 16, 32)))  # left as they were


def test_views_leave_the_rows_of_a_batch_apart():
    """Row i of a view depends on image i alone: changing the others changes nothing."""
    rng = np.random.default_rng(4)
    pixels, others = (torch.from_numpy(natural(rng, 16, 32)) for _ in range(2))
    others[5] = pixels[5]
    names = ("weak", "strong")
    first, second = (views(images, names, 0) for images in (pixels, others))
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a[5], b[5])
        assert not torch.equal(a[6], b[6])


def test_unknown_view():
    with pytest.raises(ValueError, match="weak, strong or plain"):
        draw_rows(np.random.default_rng(0), np.arange(4), ("weak", "stong"), 32)
