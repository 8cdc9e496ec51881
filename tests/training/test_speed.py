"""The flags that trade bits for speed: what they change and what they don't, and whole steps of every recipe without a
wait for the device.
"""

import ctypes
import subprocess
import sys
from argparse import Namespace
from types import SimpleNamespace

import pytest
import torch
import torch._inductor.config
from helpers.golden import normal
from helpers.scripts import ROOT, TINY, assert_refused, assert_runs, handed_to_fit, load_checkpoint, run_here, steps

from dataset.batches import Batch, Minibatch
from methods import fixmatch, mixmatch, remixmatch, supervised
from methods.averaged import Averaged
from methods.classifier import crt, tfe
from models.torchvision_resnet import TorchvisionResNet
from models.wrn import WideResNet
from training.speed import accelerate, faster

SLOW = {"amp": False, "channels_last": False, "compile": None, "tf32": False, "cudnn_benchmark": False, "graph": False}
COUNTS, IMAGES = torch.tensor([20, 10, 5, 5]), normal(1, (8, 3, 32, 32))


class Small(torch.nn.Module):
    """Few operations, for the compiler takes seconds for each."""

    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Sequential(
            torch.nn.Conv2d(3, 16, 3, bias=False), torch.nn.BatchNorm2d(16), torch.nn.LeakyReLU()
        )
        self.output, self.rot = torch.nn.Linear(16, 4), torch.nn.Linear(16, 4)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x).mean(dim=(2, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output(self.features(x))


def student(small: bool = False, **flags) -> Averaged:
    torch.manual_seed(0)
    network = Small() if small else WideResNet(4, depth=10, width=1)
    return accelerate(Averaged(network, torch.optim.Adam(network.parameters(), 0.002), 0.9), Namespace(**SLOW | flags))


def trained(it: Averaged, n: int = 2) -> list[torch.Tensor]:
    """Losses of n steps."""
    batch, losses = Batch({}, Minibatch([IMAGES], torch.arange(8) % 4)), []
    for _ in range(n):
        loss, *_ = supervised.supervised().loss(it.live, it.live, batch)
        it.descend(loss)
        losses.append(loss.detach())
    return losses


def watch_convolutions(it: Averaged) -> list[tuple[torch.dtype, bool]]:
    seen = []
    for network in (it.live, it.ema):
        convolution = network.unit3[0].layer[0]
        hook = lambda module, args, out: seen.append((out.dtype, out.is_contiguous(memory_format=torch.channels_last)))
        convolution.register_forward_hook(hook)
    return seen


def test_without_flags_nothing_changes():
    it = student()
    assert "features" not in vars(it.live) and "features" not in vars(it.ema)


@pytest.mark.parametrize(
    ("flags", "dtype", "last"),
    [
        ({"amp": True}, torch.bfloat16, False),
        ({"channels_last": True}, torch.float32, True),
        ({"amp": True, "channels_last": True}, torch.bfloat16, True),
    ],
)
def test_what_flags_change(flags, dtype, last):
    it = student(**flags)
    seen = watch_convolutions(it)
    losses, logits = trained(it), it.ema(IMAGES)
    assert seen == [(dtype, last)] * 3  # two steps of the network, the average
    state = [*it.live.state_dict().values(), *it.ema.state_dict().values(), *losses, logits]
    state += [value for moments in it.optimizer.state.values() for value in moments.values()]
    state += [parameter.grad for parameter in it.live.parameters() if parameter.grad is not None]
    assert {tensor.dtype for tensor in state} == {torch.float32, torch.int64}  # int64: BatchNorm's counters
    layout = torch.channels_last if last else torch.contiguous_format
    assert all(tensor.is_contiguous(memory_format=layout) for tensor in state if tensor.ndim == 4)
    slow = student()
    exact, exact_logits = trained(slow), slow.ema(IMAGES)
    close = {"rtol": 0.03, "atol": 0.03} if "amp" in flags else {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(torch.stack(losses), torch.stack(exact), **close)
    torch.testing.assert_close(logits, exact_logits, **close)
    if "amp" in flags:
        assert not torch.equal(logits, exact_logits)


@pytest.mark.parametrize("tf32", [False, True])
@pytest.mark.parametrize("benchmark", [False, True])
def test_what_cuda_may_round_and_choose(tf32, benchmark, cuda_switches):
    """As the flags say, whatever was before."""
    wanted = [tf32, tf32, benchmark, not benchmark]
    for (backend, name), value in zip(cuda_switches, wanted, strict=True):
        setattr(backend, name, not value)
    network = SimpleNamespace(parameters=lambda: iter([SimpleNamespace(device=torch.device("cuda"))]))
    flags = SLOW | {"tf32": tf32, "cudnn_benchmark": benchmark}
    accelerate(SimpleNamespace(live=network, ema=network), Namespace(**flags))
    assert [getattr(*switch) for switch in cuda_switches] == wanted


@pytest.mark.slow
def test_compiled(monkeypatch):
    monkeypatch.setattr(torch._inductor.config, "force_disable_caches", True)  # of code for other processors
    torch._dynamo.reset()
    results = []
    for mode in ("default", None):
        it = student(small=True, compile=mode)
        losses = trained(it)
        results.append([*losses, *it.live.state_dict().values(), *it.ema.state_dict().values()])
    for compiled, plain in zip(*results, strict=True):
        torch.testing.assert_close(compiled, plain, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("amp", [False, True])
@pytest.mark.parametrize("network", [WideResNet(10, 10, 1), TorchvisionResNet(10, 10)], ids=["wide", "torchvision"])
def test_networks_are_one_graph(network, amp):
    """Without a break; `eager` compiles nothing, which would take minutes."""
    torch._dynamo.reset()
    features = faster(network.features, Namespace(amp=amp, channels_last=True, compile=None))
    graph = torch.compile(features, backend="eager", fullgraph=True)
    torch.testing.assert_close(graph(IMAGES), features(IMAGES))


@pytest.mark.slow
def test_memory_that_is_freed_is_kept():
    """Without that, the system clears each page of a large tensor before it is used again: a fault for each."""
    if not hasattr(ctypes.CDLL(None), "mallopt"):
        pytest.skip("only glibc can be told so")
    program = """if True:
        import resource, torch
        from training.speed import keep_memory
        faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for keep in (False, True):
            if keep:
                keep_memory()
            taken = []
            for _ in range(12):  # the C library needs a few until pieces between them are together
                before = faults()
                torch.ones(50, 2**20)  # 51,200 pages
                taken.append(faults() - before)
            print(min(taken))
    """
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    usual, kept = map(int, run.stdout.split())
    assert kept < 20 and usual > 50  # pages may be large ones


def test_compiling_is_one_graph_or_an_error(monkeypatch):
    it = student(small=True)
    monkeypatch.setattr(it.live, "features", lambda images: [torch._dynamo.graph_break(), images.mean(dim=(2, 3))][1])
    accelerate(it, Namespace(**SLOW | {"compile": "default"}))
    with pytest.raises(torch._dynamo.exc.Unsupported):
        it.live.features(torch.zeros(2, 3, 32, 32))


def test_results_of_cuda_graphs_are_copies(monkeypatch):
    """Such a graph writes every result to the same place."""
    place = torch.zeros(2, 16)
    monkeypatch.setattr(torch, "compile", lambda function, **settings: lambda images: place)
    features = student(small=True, compile="reduce-overhead").live.features(IMAGES)
    place.fill_(1)
    assert not features.any()


def test_compiler_missing(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "no-such-compiler")
    result = run_here("train_cifar_fix.py", *TINY, "--compile", "--out", tmp_path / "run")
    assert_refused(result, "--compile", "no-such-compiler")
    assert not (tmp_path / "run").exists()


def test_both_stages_with_flags(tmp_path):
    """A run goes on with the same flags alone, and then repeats the bits of one that wasn't interrupted."""
    flags, once, twice = [*TINY, "--amp", "--channels_last", *steps("", 3)], tmp_path / "once", tmp_path / "twice"
    assert_runs("train_cifar_fix.py", *flags, "--epoch", 2, "--out", once)
    assert_runs("train_cifar_fix.py", *flags, "--epoch", 1, "--out", twice / "1")
    resumed = ["--epoch", 2, "--resume", twice / "1" / "checkpoint.pth.tar", "--out", twice / "2"]
    assert_refused(run_here("train_cifar_fix.py", *TINY, *steps("", 3), *resumed), "--amp (True there, False now)")
    assert_runs("train_cifar_fix.py", *flags, *resumed)
    whole, parts = (load_checkpoint(folder / "checkpoint.pth.tar") for folder in (once, twice / "2"))
    for key in ("state_dict", "ema_state_dict"):
        for name, value in whole[key].items():
            assert torch.equal(value, parts[key][name]), name
    # Co-learning may have other flags than its pre-training had.
    resumed = ["--resume", once / "checkpoint.pth.tar", "--out", tmp_path / "cossl", "--epoch", 1, "--warm_tfe", 1]
    result = assert_runs("train_cifar_fix_cossl.py", *TINY, "--channels_last", *steps("", 3), *resumed)
    assert "warning" not in result.stderr


RECIPES = sorted(path.name for path in ROOT.glob("train_*_*.py"))


@pytest.mark.filterwarnings("ignore:.*to a meta parameter")
@pytest.mark.parametrize("recipe", RECIPES)
def test_whole_steps_of_recipes_on_meta(recipe, tiny, pretrained_by, monkeypatch, tmp_path):
    """The recipe's own step, where a read by the host raises. See `test_device.py`."""
    resume = []
    if "cossl" in recipe:
        resume = ["--resume", pretrained_by(recipe.replace("_cossl", "")) / "checkpoint.pth.tar"]
    align = ["--align"] if "remix" in recipe else []
    monkeypatch.setattr("training.run.pick_device", lambda gpu: torch.device("meta"))
    handed = handed_to_fit(recipe, *tiny(recipe), *resume, *align, "--out", tmp_path)
    batches = handed.data.batches(handed.step.streams, *handed.step.draws)
    logs = [handed.step(batches.at(t)) for t in range(2)]
    assert all(value.is_meta for values in logs for value in values.values())


def every_method():
    mix = {"T": 0.5, "alpha": 0.75, "lambda_u": lambda t: 1.5}
    state = {"running_mean": remixmatch.RunningMean(4), "target": COUNTS / COUNTS.sum()}
    return {
        "fixmatch": fixmatch.fixmatch(tau=0.3),
        "mixmatch": mixmatch.mixmatch(**mix),
        "remixmatch": remixmatch.remixmatch(**mix, w_rot=0.5, w_ent=lambda t: 0.5, **state),
        "supervised": supervised.supervised(),
    }


def on_tensors(numbers: dict) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(number) for name, number in numbers.items()}


@pytest.mark.parametrize("name", every_method())
def test_a_method_is_one_graph(name):
    """No break: a number read by the host, or control flow on a tensor, would end the graph, which raises."""
    torch.manual_seed(0)
    method, network = every_method()[name], Small()
    u = [normal(2 + i, (8, 3, 32, 32)) for i in range(len(method.views["unlabelled"]))]
    numbers = on_tensors(method.draw(0, 8))
    batch = Batch(numbers, Minibatch([IMAGES], torch.arange(8) % 4), Minibatch(u, None))
    torch._dynamo.reset()
    graph = torch.compile(method.loss, backend="eager", fullgraph=True)
    losses = [loss(network, network, batch)[0] for loss in (graph, every_method()[name].loss)]
    torch.testing.assert_close(*losses)


@pytest.mark.parametrize("learner", [tfe(COUNTS, 0.6), crt()], ids=["tfe", "crt"])
def test_a_learner_is_one_graph(learner):
    torch._dynamo.reset()
    numbers = on_tensors(learner.draw(0, 8))
    inputs = torch.nn.Linear(6, 4), torch.randn(8, 6), torch.arange(8) % 4, torch.randn(8, 6), numbers
    graph = torch.compile(learner.loss, backend="eager", fullgraph=True)
    torch.testing.assert_close(graph(*inputs)[0], learner.loss(*inputs)[0])


@pytest.mark.parametrize(
    ("capabilities", "warned"),
    [
        ({"architecture": "x86_64", "avx512_bf16": False, "amx_bf16": False}, True),
        ({"architecture": "x86_64", "avx512_bf16": True, "amx_bf16": False}, False),
        ({"architecture": "aarch64"}, False),
        ({}, False),
    ],
)
def test_bfloat16_on_a_processor_without_it_is_warned_of(capabilities, warned, monkeypatch, tmp_path):
    monkeypatch.setattr("training.speed.cpu_capabilities", lambda: capabilities)
    result = run_here("train_cifar_fix.py", *TINY, *steps("", 1), "--epochs", 1, "--amp", "--out", tmp_path / "run")
    assert result.returncode == 0
    assert (result.stderr.count("warning: --amp") == 1) is warned
