"""Food-101-LT: the official archive, crops and views against torchvision's, workers, bad input, what flags reach."""

import importlib
import json
import multiprocessing
import multiprocessing.synchronize
import os
import shutil
import signal
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.transforms as T
import torchvision.transforms.functional as TF
from helpers.data_files import imbalance
from helpers.golden import normal
from helpers.scripts import HANG, assert_refused, assert_runs, load_checkpoint, run_here
from PIL import Image
from torchvision.datasets import Food101

import train_food_fix_cossl
from dataset.augment import normalise
from dataset.batches import Batch, Minibatch
from dataset.crop_views import apply_crop_views, draw_crop_views
from dataset.crops import centre_crop
from dataset.files import CHUNK
from dataset.food101 import MEAN, STD, load_food101
from dataset.image_loader import ChunkSampler, ImageLoader
from dataset.long_tail import long_tailed
from dataset.pillow_ops import cutout
from dataset.randaugment import FUNCTIONS, apply_layers
from dataset.stream import Stream
from dataset.streams import Sampling, file_streams
from methods.averaged import STUDENT
from methods.chunks import in_chunks
from methods.classifier import tfe
from methods.method import Method
from methods.schedules import warm_up_then_steps
from methods.step import CO_LEARNING as ALL
from models.torchvision_resnet import LAYOUTS, TorchvisionResNet, depth_of
from reporting.trained import load_model
from training.run import Run, saved_objects
from utils.errors import UserError
from utils.seeding import fold_in, generator

FIX, COSSL = "train_food_fix.py", "train_food_fix_cossl.py"
CPU, SIZE = torch.device("cpu"), 32
LOOK = torch.tensor(MEAN), torch.tensor(STD)
WANTED = {"labelled": ("weak",), "unlabelled": ("weak", "strong")}


def open_streams(root: Path, workers=0, skip=False, device=CPU, batch_size=8, mu=5):
    """(streams, their loader); batches of unlabelled images are of two chunks."""
    images = load_food101(root)
    split = long_tailed(images, imbalance(), include_labelled=True)
    loader = ImageLoader(SIZE, 1, workers, skip, device)
    return file_streams(images, split, WANTED, Sampling(batch_size, 1, mu), loader), loader


@pytest.fixture
def archive(food101, tmp_path) -> Path:
    """A copy to damage."""
    shutil.copytree(food101, tmp_path / "data")
    return tmp_path / "data"


def assert_workers_end() -> None:
    """On a busy machine they take a while."""
    for worker in multiprocessing.active_children():
        worker.join(HANG)
    assert not multiprocessing.active_children()


def equal(a, b) -> bool:
    return torch.equal(a.labels, b.labels) and all(map(torch.equal, a.views, b.views))


def at(stream: Stream, t: int) -> Minibatch:
    """Batch t of one stream."""
    images = stream.images
    return images.make(images.draw(stream, t, images.loader.read(partial(images.chunks, stream), t)))


def members(stream: Stream, t: int) -> np.ndarray:
    """The images of batch t of one stream."""
    return stream.members[stream.order(t)[1]]


def test_reads_what_torchvision_reads(food101):
    data = load_food101(food101)
    for part, name in ((data.train, "train"), (data.test, "test")):
        theirs = Food101(food101, split=name)
        assert part.paths == list(map(str, theirs._image_files))
        assert part.labels.tolist() == theirs._labels
    assert list(data.classes) == theirs.classes
    assert load_food101(food101 / "food-101").train.paths == data.train.paths
    assert {Image.open(path).mode for path in data.train.paths} == {"RGB", "L", "CMYK"}


def test_views_are_torchvisions(food101):
    """Image by image: torchvision's RandomResizedCrop from the row's seed; the rest as drawn for the batch."""
    data, _ = open_streams(food101)
    stream, t = data.unlabelled, 1
    batch = at(stream, t)
    draw = draw_crop_views(generator(1, "unlabelled views", t), stream.wanted, 40, SIZE)
    assert [len(chunk.paths) for chunk in stream.images.chunks(stream, t)] == [32, 8] and CHUNK == 32
    crop = T.RandomResizedCrop(SIZE)
    crops = torch.zeros(2, 40, 3, SIZE, SIZE, dtype=torch.uint8)
    for row, member in enumerate(members(stream, t)):
        image = Image.open(stream.images.paths[member]).convert("RGB")
        torch.manual_seed(fold_in(1, f"unlabelled row {row}", t))
        for view in range(2):
            image_view = crop(image)
            crops[view, row] = TF.pil_to_tensor(TF.hflip(image_view) if draw.flip[view, row] else image_view)
    crops[1] = apply_layers(crops[1], draw.layers[1])
    for view, expected in zip(batch.views, crops, strict=True):
        assert torch.equal(view, torch.stack([TF.normalize(e.float() / 255, MEAN, STD) for e in expected]))
    assert batch.labels.tolist() == stream.images.labels[members(stream, t)].tolist()
    assert 0.3 < draw.flip.mean() < 0.7
    assert draw.layers[0] is None and {FUNCTIONS[number] for number in draw.layers[1][:, -1, 0]} == {cutout}


def test_evaluation_is_torchvisions(food101):
    data, _ = open_streams(food101)
    shape = T.Compose([T.Resize(36), T.CenterCrop(SIZE), T.ToTensor(), T.Normalize(MEAN, STD)])
    images, labels = (torch.cat(parts) for parts in zip(*data.test(), strict=True))
    theirs = [(shape(image), label) for image, label in Food101(food101, split="test")]
    assert torch.equal(images, torch.stack([image for image, _ in theirs]))
    assert labels.tolist() == [label for _, label in theirs]


def test_batches_depend_on_seed_stream_and_step_alone(food101):
    """Not on workers, on the order of asking, or on what was asked before; torch's generator isn't touched."""
    plain, _ = open_streams(food101)
    orders = [(0, ALL), (1, ALL), (7, ("partners", "labelled")), (2, ALL), (0, ("unlabelled",))]
    torch.manual_seed(5)
    state = torch.get_rng_state()
    expected = [{name: at(getattr(plain, name), t) for name in names} for t, names in orders]
    assert torch.equal(torch.get_rng_state(), state)
    worked, loader = open_streams(food101, workers=2)
    with loader.running():
        for (t, names), batches in zip(orders, expected, strict=True):
            assert all(equal(at(getattr(worked, name), t), batches[name]) for name in names)
            first = next(iter(worked.test()))
            assert torch.equal(first[0], next(iter(plain.test()))[0])
        assert len(multiprocessing.active_children()) == 2
        assert torch.equal(torch.get_rng_state(), state)
    assert_workers_end()
    assert not equal(at(plain.labelled, 0), at(plain.labelled, 1))
    renamed = plain.balanced.renamed("another name")
    assert not torch.equal(at(renamed, 0).views[0], at(plain.balanced, 0).views[0])
    # An epoch of the labelled set has each image once at most; a balanced batch has classes equally often.
    assert len({image for t in range(2) for image in members(plain.labelled, t)}) == 16
    labels = plain.balanced.images.labels[np.concatenate([members(plain.balanced, t) for t in range(60)])]
    assert np.bincount(labels) == pytest.approx([160] * 3, abs=40)


@pytest.mark.parametrize("workers", [0, 2])
def test_no_crop_is_made_twice(workers, food101, monkeypatch):
    """Steps follow one another, over an evaluation or not; workers are started once, and go on with the next steps."""
    data, loader = open_streams(food101, workers)
    passes, original, batches = [], ChunkSampler.__iter__, data.batches(ALL)
    monkeypatch.setattr(ChunkSampler, "__iter__", lambda sampler: passes.append(1) or original(sampler))
    with loader.running():
        batches.at(0)
        begun, running = len(passes), multiprocessing.active_children()
        batches.at(1)
        batches.at(2)
        assert len(passes) == begun
        list(data.test())
        batches.at(3)
        assert len(passes) == begun + 2
        assert multiprocessing.active_children() == running
    assert loader.figures()["waited_s"] > 0
    assert loader.figures() == {"waited_s": 0}


def test_views_on_meta():
    """They read nothing back from the device."""
    crops = torch.zeros(3, 4, 3, SIZE, SIZE, dtype=torch.uint8, device="meta")
    draw = draw_crop_views(np.random.default_rng(0), ("weak", "strong", "plain"), 4, SIZE)
    assert not draw.flip[2].any()
    views = apply_crop_views(crops, draw, MEAN, STD)
    assert all(view.is_meta and view.shape == (4, 3, SIZE, SIZE) and view.dtype == torch.float32 for view in views)


def test_batches_on_meta(food101):
    """A single number stays on the host, where the optimiser's rate is read."""
    data, _ = open_streams(food101, device=torch.device("meta"))
    learner = tfe(torch.tensor(data.counts, device="meta"), 0.6)
    _, *parts = batch = data.batches(
        ALL, learner.draw, lambda t, rows: {"lr": np.array(t / 8), "next_lr": np.array((t + 1) / 8)}
    ).at(3)
    assert all(part.labels.is_meta and all(view.is_meta for view in part.views) for part in parts)
    assert batch.numbers["coins"].is_meta and batch.numbers["coins"].shape == (2, 8)
    assert {name: batch.numbers[name].item() for name in ("lr", "next_lr")} == {"lr": 3 / 8, "next_lr": 0.5}


def test_numbers_depend_on_seed_name_and_step_alone(food101):
    data, _ = open_streams(food101)
    learner = tfe(torch.tensor(data.counts), 0.6)
    batches = data.batches(("balanced", "partners"), learner.draw)
    late = batches.at(7)
    torch.rand(3)
    first, once_more = batches.at(0), batches.at(7)
    assert torch.equal(late.numbers["coins"], once_more.numbers["coins"]) and equal(late.balanced, once_more.balanced)
    renamed = data.batches(("balanced", "partners"), learner.draw, name="warm-up").at(7)
    for other in (first, renamed):
        assert not torch.equal(late.numbers["coins"], other.numbers["coins"])
        assert not torch.equal(late.balanced.views[0], other.balanced.views[0])


# --- Bad input ---


def damage(path: str) -> None:
    Path(path).write_bytes(Path(path).read_bytes()[:200])


def test_a_corrupt_file_ends_the_run(archive, tiny, tmp_path):
    """In the middle of the second epoch; the first one's checkpoint stays, and the run goes on without the file."""
    flags = [*tiny(FIX), "--data_root", archive, "--workers", 2, "--out", tmp_path / "out"]
    result = assert_runs(FIX, *flags, "--epoch", 1)
    assert "  waited_s " in result.stdout
    written = [(tmp_path / "out" / name).read_text() for name in ("log.txt", "summary.json")]
    assert "waited" not in "".join(written)
    state = load_checkpoint(tmp_path / "out" / "checkpoint.pth.tar")
    state["arguments"]["epochs"] = 2
    torch.save(state, tmp_path / "out" / "checkpoint.pth.tar")
    data, _ = open_streams(archive, mu=2)
    path = data.unlabelled.images.paths[members(data.unlabelled, 5)[9]]
    damage(path)
    with pytest.raises(UserError, match=path):
        at(data.unlabelled, 5)
    result = run_here(FIX, *flags, "--epoch", 2)
    assert_refused(result, path, "not a readable image", "--skip_corrupt")
    assert "continuing after epoch 1" in result.stdout
    assert_workers_end()
    assert load_checkpoint(tmp_path / "out" / "checkpoint.pth.tar")["epoch"] == 1
    result = assert_runs(FIX, *flags, "--epoch", 2, "--skip_corrupt")
    assert result.stderr.count(f"skipped, not a readable image: {path}") == 1
    assert "continuing after epoch 1" in result.stdout and "  skipped " in result.stdout


def test_skipped_images_are_replaced(archive):
    """By the next one that can be read, with its label; in evaluation by none. Each is named once, and counted."""
    whole, _ = open_streams(archive)
    _, places = whole.labelled.order(0)
    expected, test = at(whole.labelled, 0), [torch.cat(parts) for parts in zip(*whole.test(), strict=True)]
    files = whole.labelled.images
    size = len(whole.labelled.members)
    row = next(r for r, p in enumerate(places) if p not in (size - 1,) and (p + 2) % size not in places)
    broken = [files.paths[whole.labelled.members[(places[row] + i) % size]] for i in range(2)]
    tests = load_food101(archive).test
    for path in (*broken, tests.paths[0], tests.paths[7]):
        damage(path)
    data, loader = open_streams(archive, skip=True)
    got = at(data.labelled, 0)
    others = [r for r, p in enumerate(places) if files.paths[data.labelled.members[p]] not in broken]
    assert torch.equal(got.views[0][others], expected.views[0][others])
    instead = data.labelled.members[(places[row] + 2) % size]
    assert got.labels[row] == files.labels[instead]
    image = Image.open(files.paths[instead]).convert("RGB")
    torch.manual_seed(fold_in(1, f"labelled row {row}", 0))
    crop = TF.pil_to_tensor(T.RandomResizedCrop(SIZE)(image))
    flip = draw_crop_views(generator(1, "labelled views", 0), ("weak",), 8, SIZE).flip[0, row]
    assert torch.equal(got.views[0][row], normalise((crop.flip(2) if flip else crop)[None], *LOOK)[0])
    images, labels = (torch.cat(parts) for parts in zip(*data.test(), strict=True))
    kept = [i for i in range(len(tests.paths)) if i not in (0, 7)]
    assert torch.equal(images, test[0][kept]) and torch.equal(labels, test[1][kept])
    assert loader.figures()["skipped"] >= 4
    assert equal(at(data.labelled, 0), got)
    assert loader.figures()["skipped"] >= 1 and len(loader.named) == 4


def test_nothing_readable(archive):
    data, _ = open_streams(archive, skip=True)
    for path in {*data.unlabelled.images.paths, *load_food101(archive).test.paths}:
        damage(path)
    with pytest.raises(UserError, match="nor is any other of the labelled set"):
        at(data.labelled, 0)
    with pytest.raises(UserError, match="nor is any other of the test set"):
        list(data.test())


@pytest.mark.slow
def test_a_worker_that_dies_is_one_line(food101):
    assert_workers_end()  # of earlier tests
    data, loader = open_streams(food101, workers=1)
    batches = data.batches(("labelled",))
    with pytest.raises(UserError, match="--workers 1: a worker process died"), loader.running():
        batches.at(0)
        (worker,) = multiprocessing.active_children()
        os.kill(worker.pid, signal.SIGKILL)
        for t in range(1, 50):
            batches.at(t)
    with pytest.raises(RuntimeError, match="another"), loader.running():
        raise RuntimeError("another")


def full(*_, **__):
    raise OSError(28, "No space left on device")


def test_workers_that_cannot_deliver_are_one_line(food101, tiny, tmp_path, monkeypatch):
    """Their crops find no room in /dev/shm, or their locks."""
    flags = [*tiny(FIX), "--data_root", food101, "--workers", 2, "--out", tmp_path / "out", "--epoch", 1]
    words = "--workers 2", "/dev/shm", "lower --workers"
    with monkeypatch.context() as patched:
        patched.setattr(torch.UntypedStorage, "_share_fd_cpu_", full)  # in the workers, who inherit it
        assert_refused(run_here(FIX, *flags), "a worker process died", *words)
    with monkeypatch.context() as patched:
        patched.setattr(multiprocessing.synchronize.SemLock, "__init__", full)
        assert_refused(run_here(FIX, *flags), "no worker can start", "No space left on device", *words)
    assert_workers_end()


@pytest.mark.parametrize(
    "lost", [ConnectionRefusedError(111, "refused"), ConnectionResetError(104, "reset"), EOFError()]
)
def test_a_worker_that_dies_while_its_result_is_fetched_is_one_line(lost, food101, monkeypatch):
    """As it does where a loaded machine lets it die late; its end is then noticed while that is being handled. A closed
    output isn't taken for that.
    """
    ends = iter([RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")])

    def set_handler(number: int, handler: object) -> None:
        if (end := next(ends, None)) is not None:
            raise end

    monkeypatch.setattr(signal, "signal", set_handler)
    _, loader = open_streams(food101, workers=1)
    with pytest.raises(type(lost)), loader.running():  # before there are workers, it is of something else
        raise lost
    for found, error in ((UserError, lost), (BrokenPipeError, BrokenPipeError())):
        loader.loader = "begun"
        with pytest.raises(found) as caught, loader.running():
            raise error
        assert found is not UserError or "--workers 1: a worker process died" in str(caught.value)


def without(name: str):
    def change(folder: Path) -> None:
        target = folder / name
        shutil.rmtree(target) if target.is_dir() else target.unlink()

    return change


def relisted(part: str, change):
    """meta/PART.json, changed by a function of its content."""

    def rewrite(folder: Path) -> None:
        path = folder / "meta" / f"{part}.json"
        path.write_text(json.dumps(change(json.loads(path.read_text()))))

    return rewrite


def emptied(folder: Path) -> None:
    for path in (folder / "images" / "ramen").iterdir():
        path.unlink()


# What is done to the archive, and words of the error.
BAD_ARCHIVES = {
    "no images": (without("images"), ["food-101/images: missing from the archive"]),
    "no list": (without("meta/test.json"), ["meta/test.json: missing"]),
    "no meta": (without("meta"), ["meta/train.json: missing"]),
    "class without folder": (without("images/ramen"), ["images/ramen: holds no image"]),
    "class without images": (emptied, ["images/ramen: holds no image"]),
    "image missing": (lambda f: next((f / "images" / "ramen").iterdir()).unlink(), ["images/ramen/", ".jpg: missing"]),
    "class of test": (
        relisted("test", lambda lists: lists | {"sushi": ["sushi/1"]}),
        ["meta/test.json", "train.json lacks: sushi"],
    ),
    "empty class": (relisted("train", lambda lists: lists | {"ramen": []}), ["class ramen has no images"]),
    "other class": (relisted("train", lambda lists: lists | {"ramen": ["waffles/1"]}), ["waffles/1 is no image of"]),
    "one class": (
        lambda f: [relisted(p, lambda x: {"ramen": x["ramen"]})(f) for p in ("train", "test")],
        ["1 classes"],
    ),
    "list": (relisted("train", lambda lists: [1, 2]), ["meta/train.json: not a list of images by class"]),
    "numbers": (relisted("train", lambda lists: {"ramen": [1]}), ["meta/train.json: not a list"]),
    "not json": (lambda f: (f / "meta" / "train.json").write_text("{"), ["meta/train.json: not a list"]),
    "bytes": (lambda f: (f / "meta" / "train.json").write_bytes(b"\xff\xfe{"), ["meta/train.json: not a list"]),
}


@pytest.mark.parametrize("kind", BAD_ARCHIVES)
def test_bad_archives(kind, archive, tiny, tmp_path):
    change, words = BAD_ARCHIVES[kind]
    change(archive / "food-101")
    result = run_here(FIX, *tiny(FIX), "--data_root", archive, "--epoch", 1, "--out", tmp_path / "out")
    assert_refused(result, *words, "unpack food-101.tar.gz")
    assert not (tmp_path / "out").exists()


def test_no_archive_and_no_download(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("torchvision.datasets.food101.download_and_extract_archive", refuse)
    with pytest.raises(UserError, match=r"--data_root .*Food-101 not found .*no network.*food-101.tar.gz"):
        load_food101(tmp_path / "data")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--batch-size 23", ["--batch-size 23", "labelled set has only 22"]),
        ("--mu 9", ["--batch-size 72", "unlabelled set has only 67"]),
        ("--num_max 15", ["--num_max", "class 0 (apple_pie) needs 45 images", "only 40"]),
        ("--img_size 30", ["--img_size", "multiple of 8"]),
        ("--depth 101", ["--depth", "50"]),
        ("--mu 1.5", ["--mu", "whole number"]),
        ("--workers -1", ["--workers", "0 to 256"]),
        ("--val-iteration 5", ["--val-iteration"]),
    ],
)
def test_wrong_flags(flags, words, tiny, tmp_path):
    assert_refused(run_here(FIX, *tiny(FIX), "--epoch", 1, "--out", tmp_path / "out", *flags.split()), *words)
    assert not (tmp_path / "out").exists()


# --- Networks, schedule, what the flags reach ---


def test_networks_are_torchvisions():
    with torch.device("meta"):
        assert all(depth_of(TorchvisionResNet(5, depth).state_dict()) == depth for depth in LAYOUTS)
        assert sum(p.numel() for p in TorchvisionResNet(101).parameters()) == 23_714_981
    x = normal(1, (2, 3, SIZE, SIZE))
    network = TorchvisionResNet(5, 10).eval()
    theirs = super(TorchvisionResNet, network).forward(x)
    assert torch.equal(network(x), theirs)
    assert torch.equal(network.output(network.features(x)), theirs)


def test_chunks_have_statistics_of_their_own():
    """Network and labeller see as many images at a time as are labelled; the last chunk may be smaller."""
    norm, seen = torch.nn.BatchNorm1d(2), []

    def loss(model, labeller, batch):
        (x, u), _ = batch.labelled.views, seen.append(batch.numbers)
        seen.extend([model(torch.cat([x, u])), labeller(u)])
        return "loss"

    def draw(t, rows):
        return {"drawn": rows}

    x, u = normal(1, (3, 2)), normal(2, (5, 2))
    method = in_chunks(Method("toy", {"labelled": ("weak",)}, loss, draw))
    assert (method.views, method.draw) == ({"labelled": ("weak",)}, draw)
    batch = Batch({"tau": torch.tensor(0.3)}, Minibatch([x, u], torch.zeros(3)))
    assert method.loss(norm, norm, batch) == "loss"
    numbers, *found = seen
    assert numbers is batch.numbers
    for rows, images in zip(found, (torch.cat([x, u]), u), strict=True):
        chunks = images.split(3)
        expected = [(part - part.mean(0)) / (part.var(0, correction=0) + 1e-5).sqrt() for part in chunks]
        torch.testing.assert_close(rows, torch.cat(expected))


def test_learning_rate():
    """With the default flags it falls after epochs 35 and 65: the steps count from the end of the warm-up."""
    rate = partial(warm_up_then_steps, lr=0.04, gamma=0.1, warm_up=5 * 9, every=30 * 9)
    expected, lr = [0.04 * t / 45 for t in range(45)], 0.04
    for epoch in range(5, 90):
        lr *= 0.1 if epoch in (35, 65) else 1
        expected += [lr] * 9
    assert [rate(t) for t in range(90 * 9)] == pytest.approx(expected)
    assert warm_up_then_steps(0, 0.4, 0.1, 0, 60) == 0.4


@pytest.fixture
def caught(tiny, monkeypatch, tmp_path):
    """Run a recipe's `main` up to the training loop: what it passes to `Run.fit`, and to a function before that."""

    def run(script, watched, *flags):
        recipe, calls = importlib.import_module(script.removesuffix(".py")), {}
        original = getattr(recipe, watched)

        def call(*args, **options):
            calls[watched] = args
            return original(*args, **options)

        def fit(self, step, predict, data, steps, student, teacher=None, before=None):
            objects = saved_objects(step, student, teacher)
            calls.update(locals(), batches=data.batches(step.streams, *step.draws), start=self.start)

        monkeypatch.setattr(recipe, watched, call)
        monkeypatch.setattr(Run, "fit", fit)
        argv = [*tiny(script), "--epoch", 5, "--out", tmp_path / "out", *flags]
        monkeypatch.setattr(sys, "argv", ["recipe", *map(str, argv)])
        recipe.main()
        return calls

    return run


def hyper(optimizer):
    assert type(optimizer) is torch.optim.SGD
    assert all(group["nesterov"] and group["momentum"] == 0.9 for group in optimizer.param_groups)
    return [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups]


def test_pretraining(caught):
    schedule = ["--gamma", 0.5, "--warmup_epochs", 2, "--decay_epochs", 3]
    calls = caught(FIX, "ssl_step", "--mu", 3, "--lr", 0.8, "--wd", 0.01, *schedule)
    student, data, step, batches = (calls[name] for name in ("student", "data", "step", "batches"))
    assert calls["ssl_step"][1] is student
    assert (data.labelled.wanted, data.unlabelled.wanted) == (("weak",), ("weak", "strong"))
    assert (data.labelled.batch_size, data.unlabelled.batch_size) == (8, 24)
    assert np.isin(data.labelled.members, data.unlabelled.members).all()
    assert (student.decay, student.shrink, hyper(student.optimizer)) == (0.9, 0, [(0.8, 0.01)])
    assert tuple(batches.streams.values()) == (data.labelled, data.unlabelled)
    assert (calls["steps"], tuple(calls["objects"]), calls["start"]) == (67 // 24, STUDENT, None)
    assert (step.name, data.facts()["img_size"], data.facts()["resize"]) == ("FixMatch", 16, 18)
    rates, rows = [], []
    student.live.forward = lambda images: rows.append(len(images)) or normal(1, (len(images), 3)).requires_grad_()
    student.descend = lambda loss: rates.append(student.optimizer.param_groups[0]["lr"])
    for t in (0, 1, 4, 9, 10):
        step(batches.at(t))
    assert rates == pytest.approx([0, 0.2, 0.8, 0.8, 0.4])
    assert rows == [8] * 7 * len(rates)


def test_cossl(caught, pretrained_by, monkeypatch):
    start = pretrained_by(FIX) / "checkpoint.pth.tar"
    head_flags = ["--lr", 0.3, "--lr_tfe", 0.7, "--wd_tfe", 0.02, "--warm_tfe", 3]
    calls = caught(COSSL, "warm_up_on_batches", "--resume", start, *head_flags)
    student, teacher, data, batches, step = (calls[name] for name in ("student", "teacher", "data", "batches", "step"))
    state = load_checkpoint(start)
    lr = state["optimizer"]["param_groups"][0]["lr"]
    assert 0 < lr < 0.04  # in the middle of the warm-up
    assert (student.decay, student.shrink, hyper(student.optimizer)) == (0.9, 0, [(lr, 3e-4)])
    momentum = student.optimizer.state_dict()["state"][0]["momentum_buffer"]
    assert torch.equal(momentum, state["optimizer"]["state"][0]["momentum_buffer"])
    assert (teacher.decay, teacher.shrink, hyper(teacher.optimizer)) == (0.9, 0, [(0.3, 0.02), (0.3, 0)])
    assert data.partners.wanted == data.balanced.wanted == ("strong",)
    assert (tuple(batches.streams), list(batches.streams.values())) == (ALL, [getattr(data, name) for name in ALL])
    assert batches.draws == step.draws
    # The head starts from the momentum encoder's classifier, and its warm-up leaves that as it is.
    own = student.ema.fc.weight.clone()
    for key in ("weight", "bias"):
        assert torch.equal(teacher.live.state_dict()[key], state["ema_state_dict"][f"fc.{key}"])
    assert train_food_fix_cossl.WARM_UP_STEPS == 50
    monkeypatch.setattr(train_food_fix_cossl, "WARM_UP_STEPS", 1)
    calls["before"]()
    assert not torch.equal(teacher.live.weight, own)
    assert torch.equal(student.ema.fc.weight, own)
    encoder, head, crt, own_batches, steps = calls["warm_up_on_batches"]
    assert (encoder, head.live, head.ema) == (student.ema.features, teacher.live, teacher.ema)
    assert (head.decay, hyper(head.optimizer)) == (0.99, [(0.7, 0.02), (0.7, 0)])
    ((name, balanced),) = own_batches.streams.items()
    assert (name, steps, balanced.balanced) == ("balanced", 3, True)
    assert train_food_fix_cossl.WARM_UP_BATCH == 256 > balanced.batch_size == len(data.labelled.members)
    assert data.batches(("balanced",), name="warm-up", batch_size=9).streams["balanced"].batch_size == 9
    assert data.balanced.batch_size == 8
    assert own_batches.name != batches.name and balanced.name != data.balanced.name
    assert crt.draw(0, 8) == {}


def test_predict_sees_what_evaluation_sees(food101, pretrained_by, tmp_path):
    checkpoint = pretrained_by(FIX) / "checkpoint.pth.tar"
    folder = food101 / "food-101" / "images"
    assert_runs("predict.py", "--checkpoint", checkpoint, folder, "--out", tmp_path / "out.csv", "--gpu", "cpu")
    predict = load_model(checkpoint, "", CPU).predict
    path, label, probability, *_ = (tmp_path / "out.csv").read_text().splitlines()[1].split(",")
    crop = TF.pil_to_tensor(centre_crop(Image.open(path).convert("RGB"), 16, 18))
    with torch.no_grad():
        p = predict(normalise(crop[None], *LOOK)).softmax(1)[0]
    assert float(probability) == pytest.approx(p.max().item(), abs=1e-5)
    assert label == ["apple_pie", "ramen", "waffles"][p.argmax()]
