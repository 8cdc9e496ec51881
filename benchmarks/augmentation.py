"""How fast are batched views compared with the same pipeline written image by image with Pillow and torchvision?

    python benchmarks/augmentation.py --batch 64 --size 32 --seconds 10

Both pipelines first have to give equal results, value for value, from the same draws; then they take turns on one
thread. Both are timed with their random numbers drawn for the whole batch at once, which per-image transforms can't do.

Shape legend: B images uint8 (B, 3, S, S); a view is float32 (3, S, S).
"""

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import numpy as np
import PIL
import torch
import torchvision
import torchvision.transforms.functional as TF
from PIL import Image, ImageDraw, ImageEnhance, ImageOps
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dataset.augment import Views, apply_views, draw_views
from dataset.randaugment import NAMES

WANTED = ("weak", "strong", "strong")
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)


def solarize_add(image: Image.Image, addition: float) -> Image.Image:
    """SolarizeAdd of the published pools, which Pillow lacks."""
    added = np.clip(np.asarray(image).astype(int) + addition, 0, 255).astype(np.uint8)
    return ImageOps.solarize(Image.fromarray(added), 128)


def cutout(image: Image.Image, side: float, position: np.ndarray, fill: tuple[int, int, int]) -> Image.Image:
    """A filled rectangle around position (x, y) in pixels, clipped at the rim."""
    image, (width, height) = image.copy(), image.size
    x, y = (int(max(0, centre - side / 2)) for centre in position)
    ImageDraw.Draw(image).rectangle((x, y, min(width, x + side), min(height, y + side)), fill)
    return image


def affine(image: Image.Image, *matrix: float) -> Image.Image:
    """Nearest neighbour, black outside."""
    return image.transform(image.size, Image.Transform.AFFINE, matrix)


# name -> (image, value, position of a cutout) -> image
PILLOW = {
    "Identity": lambda i, v, xy: i,
    "AutoContrast": lambda i, v, xy: ImageOps.autocontrast(i),
    "Equalize": lambda i, v, xy: ImageOps.equalize(i),
    "Invert": lambda i, v, xy: ImageOps.invert(i),
    "Posterize": lambda i, v, xy: ImageOps.posterize(i, max(1, int(v))),
    "Solarize": lambda i, v, xy: ImageOps.solarize(i, v),
    "SolarizeAdd": lambda i, v, xy: solarize_add(i, v),
    "Brightness": lambda i, v, xy: ImageEnhance.Brightness(i).enhance(v),
    "Contrast": lambda i, v, xy: ImageEnhance.Contrast(i).enhance(v),
    "Color": lambda i, v, xy: ImageEnhance.Color(i).enhance(v),
    "Sharpness": lambda i, v, xy: ImageEnhance.Sharpness(i).enhance(v),
    "Rotate": lambda i, v, xy: i.rotate(v),
    "ShearX": lambda i, v, xy: affine(i, 1, v, 0, 0, 1, 0),
    "ShearY": lambda i, v, xy: affine(i, 1, 0, 0, v, 1, 0),
    "TranslateX": lambda i, v, xy: affine(i, 1, 0, v, 0, 1, 0),
    "TranslateY": lambda i, v, xy: affine(i, 1, 0, 0, 0, 1, v),
    "CutoutAbs": lambda i, v, xy: cutout(i, v, xy, (125, 123, 114)),
    "Cutout": lambda i, v, xy: cutout(i, v, xy, (127, 127, 127)),
}


def pillow_randaugment(image: Image.Image, draw, row: int) -> Image.Image:
    """The operations that row `row` of a `RandAugmentDraw` asks for, one after another."""
    for operation, value, position in zip(draw.operation[row], draw.value[row], draw.position[row], strict=True):
        image = PILLOW[NAMES[operation]](image, value, position)
    return image


def pillow_view(image: Image.Image, crop_flip, hole, row: int, mean: tuple, std: tuple) -> Tensor:
    """What follows RandAugment, for one image: row `row` of the draws, None for a step that the view doesn't have."""
    size = image.size[0]
    if crop_flip is not None:
        image = TF.crop(TF.pad(image, size // 8), crop_flip.top[row], crop_flip.left[row], size, size)
        image = TF.hflip(image) if crop_flip.flip[row] else image
    view = TF.normalize(TF.to_tensor(image), mean, std)
    if hole is not None:
        y, x, half = hole.y[row], hole.x[row], size // 2 // 2
        view[:, max(0, y - half) : y + half, max(0, x - half) : x + half] = 0
    return view


def pillow_views(pixels: np.ndarray, names: tuple[str, ...], draw: Views, mean: tuple, std: tuple) -> list[Tensor]:
    """What `apply_views` makes, image by image. pixels: uint8 (B, S, S, 3)."""
    strong, result = count(), []
    for name, crop_flip, hole in zip(names, draw.crop_flips, draw.holes, strict=True):
        view = []
        for row, image in enumerate(map(Image.fromarray, pixels)):
            if name == "strong":
                image = pillow_randaugment(image, draw.randaugment, next(strong))
            view.append(pillow_view(image, crop_flip, hole, row, mean, std))
        result.append(torch.stack(view))
    return result


def natural(rng: np.random.Generator, n_images: int, size: int) -> np.ndarray:
    """Smooth random images with noise, uint8 (B, 3, S, S): all operations have something to do."""
    coarse = torch.from_numpy(rng.uniform(-80, 336, (n_images, 3, 4, 4)))
    smooth = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic").numpy()
    return (smooth + rng.normal(0, 8, smooth.shape)).clip(0, 255).astype(np.uint8)


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.processor())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=64, help="images a batch; each gives 1 weak and 2 strong views")
    parser.add_argument("--size", type=int, default=32, help="side of the images, pixels")
    parser.add_argument("--seconds", type=float, default=10, help="how long to measure, seconds for both together")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    pixels = natural(rng, args.batch, args.size)
    by_image, by_batch = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)), torch.from_numpy(pixels)

    def pillow() -> list[Tensor]:
        return pillow_views(by_image, WANTED, draw_views(rng, WANTED, args.batch, args.size), MEAN, STD)

    def batched() -> list[Tensor]:
        return apply_views(by_batch, WANTED, draw_views(rng, WANTED, args.batch, args.size), MEAN, STD)

    for _ in range(5):
        draw = draw_views(rng, WANTED, args.batch, args.size)
        expected = pillow_views(by_image, WANTED, draw, MEAN, STD)
        for got, want in zip(apply_views(by_batch, WANTED, draw, MEAN, STD), expected, strict=True):
            if not torch.equal(got, want):
                raise SystemExit("the two pipelines differ: nothing to compare")

    times: dict[str, list[float]] = {"pillow": [], "batched": []}
    deadline = time.perf_counter() + args.seconds
    while time.perf_counter() < deadline:
        times["pillow"].append(seconds(pillow))
        times["batched"].extend(seconds(batched) for _ in range(5))
    report(times, len(WANTED) * args.batch)


def report(times: dict[str, list[float]], n_views: int) -> None:
    print(
        f"{cpu_name()}, 1 thread; Python {platform.python_version()}, torch {torch.__version__}, "
        f"torchvision {torchvision.__version__}, Pillow {PIL.__version__}, NumPy {np.__version__}"
    )
    speed = {name: n_views / statistics.median(values) for name, values in times.items()}
    for name, values in times.items():
        print(f"{name:8} {speed[name]:8.0f} views/s (median of {len(values)} batches of {n_views} views)")
    print(f"ratio    {speed['batched'] / speed['pillow']:8.1f}")


if __name__ == "__main__":
    main()
