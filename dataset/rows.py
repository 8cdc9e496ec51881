"""All random numbers of a view as one row of whole numbers: what the host draws, and `dataset.render` reads.

A row, int32 (6 + 8 L,): image, top, left, flip, y and x of the hole, then per layer of RandAugment its function (a
place in `randaugment.FUNCTIONS`) and the seven numbers that this reads. top, left: corner of the crop in an image
padded by S // 8 pixels a side; flip: 1 mirrors left and right.

Shape legend: B images of S x S pixels, V views of each, L layers.
"""

from functools import lru_cache

import numpy as np

from dataset.randaugment import FUNCTION_OF, OPERATION_NAMES, POOL10, POOL30, numbers_of, pool10_values, pool30_values

HEAD, LAYER = 6, 8  # numbers before the layers, and of each layer
FAR = -(2**20)  # a hole that lies outside of every image


@lru_cache
def layer_table(pool: tuple[tuple[str, bool, float], ...], size: int) -> np.ndarray:
    """int32 (P, 2, 8): the layer of each operation (name, does the sign flip, value), with sign + and -."""

    def layer(name: str, value: float) -> list[int]:
        operation = OPERATION_NAMES.index(name)
        return [FUNCTION_OF[operation], *numbers_of(operation, value, size, size)]

    return np.array([[layer(name, v), layer(name, -v if signed else v)] for name, signed, v in pool], np.int32)


def edges(centre: np.ndarray, side: np.ndarray | float, size: int) -> np.ndarray:
    """First and last column, first and last row of squares around centre (x, y), cut at the rim: (K, 4).

    centre: (K, 2); side: of the squares, (K, 1) or one for all; size: of the images; all in pixels.
    """
    first = np.trunc(np.maximum(0, centre - side / 2))
    return np.stack([first, np.minimum(size, first + side)], 2).reshape(-1, 4)


def draw_layers30(
    rng: np.random.Generator, n_images: int, size: int, n: int = 3, m: float = 4, pixel_scale: float = 1.0
) -> np.ndarray:
    """int32 (n_images, n, 8): n operations at magnitude m of 30 for each image, with replacement; geometric ones
    change sign with p = 0.5.

    size: side of the images, pixels. pixel_scale: factor on the shifts and sides, published for 32 and 64 pixels.
    A square's centre is uniform over (1, size], as numpy.random.uniform(size) draws it: with `high` left at its 1.
    Source: FixMatch's published pool; n = 3, m = 4 and the centre: published code, not in the paper.
    """
    values, shape = pool30_values(m, pixel_scale), (n_images, n)
    table = layer_table(tuple((name, signed, values[name]) for name, (_, _, signed) in POOL30.items()), size)
    place = rng.integers(len(table), size=shape)
    layers = table[place, (rng.random(shape) < 0.5).view(np.int8)]
    centre = size - rng.uniform(0, size - 1, (*shape, 2))
    cutouts = place == list(POOL30).index("CutoutAbs")
    layers[cutouts, 1:5] = edges(centre[cutouts], values["CutoutAbs"], size)
    return layers


def draw_layers10(rng: np.random.Generator, n_images: int, size: int, n: int = 2, m: int = 10) -> np.ndarray:
    """int32 (n_images, n + 1, 8): n operations, each applied with p = 0.5 at a magnitude 1 .. m - 1 of 10, then a grey
    square of side size // 2.

    size: side of the images, pixels. Source: FixMatch's published pool; published code for Food-101, not in the paper.
    """
    values, shape = [pool10_values(v, size) for v in range(m)], (n_images, n)
    tables = [
        layer_table(tuple((name, signed, value[name]) for name, (_, signed) in POOL10.items()), size)
        for value in values
    ]
    place = rng.integers(len(POOL10), size=shape)
    sign, magnitude = (rng.random(shape) < 0.5).view(np.int8), rng.integers(1, m, shape)
    layers = np.stack(tables)[magnitude, place, sign]
    left_out = rng.random(shape) >= 0.5
    centre = rng.uniform(0, size, (n_images, n + 1, 2))
    cutouts = place == list(POOL10).index("Cutout")
    side = np.array([value["Cutout"] for value in values])[magnitude]
    layers[cutouts, 1:5] = edges(centre[:, :n][cutouts], side[cutouts][:, None], size)
    layers[left_out] = 0  # Identity
    last = np.tile(layer_table((("Cutout", False, size // 2),), size)[0, 0], (n_images, 1, 1))
    last[:, 0, 1:5] = edges(centre[:, n], size // 2, size)
    return np.concatenate([layers, last], 1)


def draw_rows(
    rng: np.random.Generator,
    image: np.ndarray,
    names: tuple[str, ...],
    size: int,
    *,
    flip: bool = True,
    n: int = 3,
    m: float = 4,
    pixel_scale: float = 1.0,
) -> np.ndarray:
    """int32 (V, B, 6 + 8 n): rows for the views called `names` of the images numbered `image` (B,).

    names: "weak" = crop, flip, normalise; "strong" = n operations of RandAugment at magnitude m of 30, crop, flip,
    normalise, a hole of zeros; "plain" = normalise. size: S, pixels; flip: whether images may be mirrored;
    pixel_scale: factor on RandAugment's magnitudes in pixels. Crops are uniform over all places in the padded image,
    mirrored with p = 0.5; the hole's centre is uniform over the pixels.
    Raises ValueError for another name. Source: FixMatch's weak and strong augmentation, which the paper takes over;
    their order and sizes: published code, not in the paper.
    """
    if not set(names) <= {"weak", "strong", "plain"}:
        raise ValueError(f"views are weak, strong or plain, not {names}")
    strong, weak = ([i for i, name in enumerate(names) if name == kind] for kind in ("strong", "weak"))
    moved, border = strong + weak, size // 8
    rows = np.zeros((len(names), len(image), HEAD + LAYER * n), np.int32)
    rows[:, :, 0], rows[:, :, 1:3], rows[:, :, 4:6] = image, border, FAR
    layers = draw_layers30(rng, len(strong) * len(image), size, n, m, pixel_scale)
    rows[strong, :, HEAD:] = layers.reshape(len(strong), len(image), LAYER * n)
    corners = rng.integers(0, 2 * border + 1, size=(2, len(moved) * len(image)))
    mirrored = rng.integers(0, 2, len(moved) * len(image))
    rows[moved, :, 1:3] = corners.T.reshape(len(moved), len(image), 2)
    rows[moved, :, 3] = mirrored.reshape(len(moved), len(image)) if flip else 0
    centres = rng.integers(0, size, size=(2, len(strong) * len(image)))
    rows[strong, :, 4:6] = centres.T.reshape(len(strong), len(image), 2)
    return rows
