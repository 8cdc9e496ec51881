"""No step waits for the device: whole steps on `device='meta'`, where a read by the host or a tensor left on the CPU
raises. And all they compute is of one floating type."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dataset.batches import Batches
from dataset.images import Images
from dataset.pixels import Pixels
from dataset.stream import Stream
from methods import fixmatch, mixmatch, remixmatch, supervised
from methods.acr import acr
from methods.averaged import Averaged
from methods.balanced import abc, kept_by_prior, with_unlabelled
from methods.cdmad import ConstantImage, cdmad
from methods.classifier import caa, crt, decay_all_but_bias, tfe
from methods.offsets import adello, la, of_all_images, simpro, watched
from methods.prior import ClassPrior, with_prior
from methods.schedules import on_schedule
from methods.step import cossl_step, ssl_step
from methods.strength import FittedStrength, fitting
from models.wrn import WideResNet
from utils.device import pick_device
from utils.errors import UserError
from utils.metrics import metrics

META = torch.device("meta")
COUNTS = [20, 10, 5, 5]


def every_method():
    mix = {"T": 0.5, "alpha": 0.75, "lambda_u": lambda t: 1.5}
    counts = torch.tensor(COUNTS, device=META)
    state = {"running_mean": remixmatch.RunningMean(4).to(META), "target": counts / counts.sum()}
    return {
        "fixmatch": fixmatch.fixmatch(tau=0.95),
        "mixmatch": mixmatch.mixmatch(**mix),
        "remixmatch": remixmatch.remixmatch(**mix, w_rot=0.5, w_ent=lambda t: 0.5, **state),
        "supervised": supervised.supervised(),
    }


@pytest.fixture(params=every_method())
def method(request):
    return every_method()[request.param]


@pytest.fixture
def streams(method) -> dict[str, Stream]:
    pixels, labels = np.zeros((40, 3, 32, 32), np.uint8), np.repeat(np.arange(4), COUNTS)
    images = Pixels(Images(pixels, labels), (0.5,) * 3, (0.25,) * 3, META)
    stream = partial(Stream, images=images, members=np.arange(40), batch_size=8, seed=0)
    return {
        "labelled": stream("labelled", wanted=method.views["labelled"]),
        "unlabelled": stream("unlabelled", wanted=method.views["unlabelled"]),
        "balanced": stream("balanced", wanted=("strong",), balanced=True),
        "partners": stream("partners", wanted=("strong",)),
        "test": stream("test", wanted=("plain",)),
    }


def batches_of(streams: dict[str, Stream], step) -> Batches:
    return Batches({name: streams[name] for name in step.streams}, step.draws, seed=0)


@pytest.fixture
def student():
    network = WideResNet(4, depth=10, width=1).to(META)
    return Averaged(network, torch.optim.Adam(network.parameters(), 0.002), 0.999, shrink=1e-5)


def assert_on_meta(logs):
    assert logs and all(value.is_meta and (value.shape == () or name == "pseudo") for name, value in logs.items())


def head_of(student: Averaged) -> Averaged:
    head = torch.nn.Linear(student.live.output.in_features, 4, device=META)
    return Averaged(head, torch.optim.Adam(decay_all_but_bias(head, 5e-4), 0.002), 0.999)


def co_learning(method, student, learner):
    teacher, features = head_of(student), student.ema.features
    step = cossl_step(method, student, lambda images: teacher.live(features(images)), learner, teacher, features)
    return step, lambda images: teacher.ema(features(images))


def test_pretraining(streams, student, method):
    step = ssl_step(method, student, student.live)
    batches = batches_of(streams, step)
    for t in range(2):
        assert_on_meta(step(batches.at(t)))
    (images,), labels = next(streams["test"].sweep())
    figures = metrics(student.ema(images), labels, COUNTS)
    assert figures["recall"].is_meta


def with_a_prior(name: str, student: Averaged):
    """A method with an estimated class distribution, and its labeller."""
    counts, live, ema = torch.tensor(COUNTS, device=META).float(), student.live, student.ema
    every = 500 if "published" in name else 1
    prior = ClassPrior(counts, 40, warm_up=1, every=every, truth=counts).to(META)
    second = torch.nn.Linear(live.output.in_features, 4, device=META)
    return {
        "la": lambda: (la(0.95, counts, 1.0), live),
        "simpro": lambda: (simpro(0.95, prior, 1.0), with_prior(ema, prior, 1.0)),
        "published simpro": lambda: (simpro(0.95, prior, 1.0), with_prior(live, prior, 1.0, keep_from=0.95)),
        "adello": lambda: (adello(0.95, prior, counts, 10), with_prior(ema, prior, 0.0, 0.0)),
        "abc": lambda: (abc(0.95, second, counts, prior, 10), ema.features),
        "published abc": lambda: (abc(0.95, second, counts, None, 10), live.features),
        "acr": lambda: (acr(0.95, second, prior), ema.features),
        "cdmad": lambda: (cdmad(ConstantImage(32).to(META), 1), ema),
    }[name]()


@pytest.mark.parametrize("name", ["la", "simpro", "published simpro", "adello", "abc", "published abc", "acr", "cdmad"])
@pytest.mark.parametrize("method", ["fixmatch"], indirect=True)
def test_methods_with_a_prior(name, streams, student):
    method, labeller = with_a_prior(name, student)
    step = ssl_step(method, student, labeller)
    batches = batches_of(streams, step)
    for t in range(2):
        assert_on_meta(step(batches.at(t)))


@pytest.mark.parametrize("method", ["fixmatch"], indirect=True)
def test_co_learning_with_a_prior(streams, student):
    """The head learns from unlabelled images, too, and how strongly the prior should count."""
    counts, features = torch.tensor(COUNTS, device=META).float(), student.ema.features
    prior, kappa = ClassPrior(counts, 40, warm_up=0).to(META), FittedStrength(1.0, META)
    method = watched(fixmatch.fixmatch(0.95, of_all_images(prior, 1.0)), prior, {"kappa": kappa})
    for base in (tfe(counts, 0.6), caa(4, student.live.output.in_features)):
        learner = fitting(with_unlabelled(base, kept_by_prior(prior), 0.95, 1.0), kappa, prior)
        teacher = head_of(student)
        labeller = with_prior(lambda images, teacher=teacher: teacher.live(features(images)), prior, kappa.value)
        step = cossl_step(method, student, labeller, learner, teacher, features)
        batches = batches_of(streams, step)
        for t in range(2):
            assert_on_meta(step(batches.at(t)))


@pytest.mark.parametrize("learner", [tfe(torch.tensor(COUNTS, device=META), 0.6), crt()], ids=["tfe", "crt"])
def test_cossl(streams, student, method, learner):
    step, predict = co_learning(method, student, learner)
    batches = batches_of(streams, step)
    for t in range(2):
        assert_on_meta(step(batches.at(t)))
    (images,), _ = next(streams["test"].sweep())
    assert predict(images).shape == (40, 4)


def test_the_short_schedule(streams, student, method):
    """Its decays, and Muon's products."""
    pretraining, co_step = ssl_step(method, student, student.live), co_learning(method, student, crt())[0]
    for step, more in ((pretraining, []), (co_step, [head_of(student)])):
        scheduled = on_schedule(step, SimpleNamespace(schedule="short"), student, *more)
        batches = batches_of(streams, scheduled)
        for t in range(2):
            assert_on_meta(scheduled(batches.at(t)))


class FloatingTypes(TorchDispatchMode):
    """The floating types of all results, with the operations that gave them."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                self.seen.setdefault(value.dtype, set()).add(function.overloadpacket.__name__)
        return result


def test_steps_follow_the_default_type(double_precision, streams, student, method):
    """From the batch on: RandAugment before it computes as Pillow does, in float32, and so do the numbers travel."""
    learner = tfe(torch.tensor(COUNTS, device=META), 0.6)
    co_step, _ = co_learning(method, student, learner)
    batch = batches_of(streams, co_step).at(0)
    assert {view.dtype for part in batch[1:] for view in part.views} == {torch.float64}
    numbers = {key: value.double() if value.is_floating_point() else value for key, value in batch.numbers.items()}
    for step in (ssl_step(method, student, student.live), co_step):
        with FloatingTypes() as types:
            step(batch._replace(numbers=numbers))
        assert types.seen.keys() == {torch.float64}, types.seen


def test_meta_tells_a_host_read():
    """The proof proves something: what a step must not do raises."""
    value = torch.ones(3, device=META)
    reads = [value.sum().item, value.cpu, lambda: bool(value[0] > 0), lambda: value[value > 0]]
    for read in reads:
        with pytest.raises(RuntimeError):
            read()


def test_gpu_flag(monkeypatch, capsys, cuda_switches):
    assert pick_device("cpu") == torch.device("cpu")
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("3") == torch.device("cpu")
    assert len(capsys.readouterr().out.splitlines()) == 1
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    chosen, exact = [], [False, False, False, True]
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    for (backend, name), value in zip(cuda_switches, exact, strict=True):
        setattr(backend, name, not value)
    assert pick_device("1") == torch.device("cuda", 1)
    assert chosen == [1]  # where the kernel is compiled, too
    assert [getattr(*switch) for switch in cuda_switches] == exact
    with pytest.raises(UserError, match=r"--gpu 7: this machine has 2 CUDA device\(s\)"):
        pick_device("7")
