"""The plain baseline: the six CIFAR recipes' steps the way such scripts are usually written.

Pillow and torchvision make the views image by image in the main process, FixMatch sends one view set after another
through the network (MixMatch and ReMixMatch do so anyway), features are blended in a loop over the samples, the moving
average is a loop over the tensors, and every figure for the log is read from the device at once. In float32.
(The losses of MixMatch and ReMixMatch are this repository's, whose forward passes are as in such scripts.)

Shape legend: B images (3, S, S), V views, D features, C classes.
"""

import random
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torchvision.transforms as T
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, RandomSampler, WeightedRandomSampler

from benchmarks.pillow import PILLOW
from benchmarks.recipe_steps import RecipeStep
from dataset.batches import Batch, Minibatch
from dataset.images import Dataset
from dataset.randaugment import POOL30, pool30_values
from methods import mixmatch, remixmatch

BATCH, MAX_LAM, TAU, DECAY, LR = 64, 0.6, 0.95, 0.999, 0.002
VALUES = pool30_values(4)


def randaugment(image: Image.Image) -> Image.Image:
    for name in random.choices(list(POOL30), k=3):
        sign = random.choice((-1, 1)) if POOL30[name][2] else 1
        position = random.uniform(0, image.size[0]), random.uniform(0, image.size[1])
        image = PILLOW[name](image, sign * VALUES[name], position)
    return image


def hole(view: Tensor) -> Tensor:
    size = view.shape[1]
    y, x = random.randrange(size), random.randrange(size)
    view[:, max(0, y - size // 4) : y + size // 4, max(0, x - size // 4) : x + size // 4] = 0
    return view


class Plain(torch.utils.data.Dataset):
    """Image i -> its views and its label."""

    def __init__(self, images: Dataset, members: Any, wanted: tuple[str, ...]) -> None:
        self.pixels, self.labels = images.train.pixels.transpose(0, 2, 3, 1), images.train.labels.tolist()
        self.members, size = members.tolist(), images.train.pixels.shape[2]
        crop = [T.RandomCrop(size, padding=size // 8), T.RandomHorizontalFlip()]
        normalise = [T.ToTensor(), T.Normalize(images.mean, images.std)]
        make = {
            "weak": T.Compose(crop + normalise),
            "strong": T.Compose([randaugment, *crop, *normalise, hole]),
        }
        self.make = [make[name] for name in wanted]

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, i: int) -> tuple[list[Tensor], int]:
        image = Image.fromarray(self.pixels[self.members[i]])
        return [make(image) for make in self.make], self.labels[self.members[i]]


def batches(images: Dataset, stream: Any, counts: Any, device: torch.device) -> Iterator[tuple[list[Tensor], Tensor]]:
    """What a stream of a recipe delivers, by a `DataLoader`."""
    source = Plain(images, stream.members, stream.wanted)
    sampler = RandomSampler(source)
    if stream.balanced:
        weights = [1 / counts[source.labels[member]] for member in source.members]
        sampler = WeightedRandomSampler(weights, len(source))
    while True:
        for views, y in DataLoader(source, BATCH, sampler=sampler, drop_last=True):
            yield [view.to(device) for view in views], y.to(device)


def fixmatch(model: Callable, labeller: Callable, x: Tensor, y: Tensor, u: list[Tensor]) -> tuple[Tensor, dict]:
    weak, *strong = u
    with torch.no_grad():
        confidence, guess = labeller(weak).softmax(dim=1).max(dim=1)
    mask = confidence.ge(TAU).float()
    loss_x = cross_entropy(model(x), y)
    loss_u = sum((cross_entropy(model(view), guess, reduction="none") * mask).mean() for view in strong) / len(strong)
    loss = loss_x + loss_u
    return loss, {"loss": loss, "loss_x": loss_x, "loss_u": loss_u, "mask": mask.mean()}


def ssl_of(recipe: str, counts: Tensor) -> Callable:
    """The SSL method of a recipe: model, labeller, x, y, u -> loss, figures (and, unused here, pseudo-labels)."""
    if "mix" not in recipe:
        return fixmatch
    method = mixmatch.mixmatch(0.5, 0.75, lambda_u=lambda t: 75.0)
    if "remix" in recipe:
        mean = remixmatch.RunningMean(len(counts)).to(counts.device)
        weights = {"lambda_u": lambda t: 1.5, "w_rot": 0.5, "w_ent": lambda t: 0.5}
        method = remixmatch.remixmatch(0.5, 0.75, **weights, running_mean=mean, target=counts)

    def loss(model: nn.Module, labeller: Callable, x: Tensor, y: Tensor, u: list[Tensor]) -> tuple:
        numbers = {name: torch.from_numpy(drawn).to(x.device) for name, drawn in method.draw(0, len(x)).items()}
        return method.loss(model, labeller, Batch(numbers, Minibatch([x], y), Minibatch(u, None)))

    return loss


def blended(f_x: Tensor, y: Tensor, f_u: Tensor, counts: list[int]) -> Tensor:
    """TFE, sample by sample."""
    rows = []
    for i in range(len(y)):
        if random.random() < (max(counts) - counts[y[i].item()]) / max(counts):
            lam = random.uniform(MAX_LAM, 1)
            rows.append(lam * f_x[i] + (1 - lam) * f_u[i])
        else:
            rows.append(f_x[i])
    return torch.stack(rows)


def descend(loss: Tensor, optimizer: torch.optim.Optimizer, live: nn.Module, ema: nn.Module, shrink: float) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    for tensor, average in zip(live.state_dict().values(), ema.state_dict().values(), strict=True):
        if tensor.is_floating_point():
            average.mul_(DECAY).add_(tensor, alpha=1 - DECAY)
            if shrink:
                tensor.mul_(1 - shrink)


def plain_step(recipe: str, images: Dataset, like: RecipeStep, device: torch.device) -> Callable[[], dict[str, float]]:
    """A step with networks and data of its own, of the same shapes as those of `like`."""
    loaders = {
        name: batches(images, getattr(like.data, name), like.data.counts, device)
        for name in ("labelled", "unlabelled", "balanced", "partners")
    }
    networks, counts = like.objects, like.data.counts.tolist()
    live, ema, adam = (networks[key] for key in ("state_dict", "ema_state_dict", "optimizer"))
    ssl, co_learning = ssl_of(recipe, torch.tensor(counts, device=device)), "teacher_head" in networks
    shrink = 0.0 if co_learning and "train_cifar_mix" not in recipe else 0.02 * LR

    def step() -> dict[str, float]:
        ((x,), y), (u, _) = next(loaders["labelled"]), next(loaders["unlabelled"])
        live.train()
        labeller = (lambda view: networks["teacher_head"](ema.features(view))) if co_learning else live
        loss, figures, *_ = ssl(live, labeller, x, y, u)
        descend(loss, adam, live, ema, shrink)
        if co_learning:
            ((x,), y), ((u,), _) = next(loaders["balanced"]), next(loaders["partners"])
            with torch.no_grad():
                f_x, f_u = ema.features(x), ema.features(u)
            loss = cross_entropy(networks["teacher_head"](blended(f_x, y, f_u, counts)), y)
            descend(loss, networks["teacher_optimizer"], networks["teacher_head"], networks["ema_teacher"], 0.0)
            figures["loss_head"] = loss
        return {name: value.item() for name, value in figures.items()}

    return step
