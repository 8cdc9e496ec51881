"""Flags of the recipes: spellings and defaults of the published scripts, plus a few that they lack."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import torch

from utils.errors import UserError
from utils.ranks import world_size


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the defaults of flags that have one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None or action.default is False else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """An argparse parser whose errors are one line; `--help` shows every default."""

    def __init__(self, description: str) -> None:
        super().__init__(description=description, formatter_class=_Help)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see --help")


def number(kind: type, valid: Callable[[float], bool], meaning: str) -> Callable[[str], float]:
    """A type for argparse: an int or float within bounds; `meaning` completes "expected ..." in the error."""

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not valid(value):
            raise argparse.ArgumentTypeError(f"expected {meaning}, got {text!r}")
        return value

    return parse


positive_int = number(int, lambda v: 0 < v < 1e9, "a whole number above 0 and below 1e9")
non_negative_int = number(int, lambda v: 0 <= v < 2**32, "a whole number from 0 to 2^32 - 1")
nonzero_int = number(int, lambda v: 0 < abs(v) < 1e9, "a whole number other than 0, from -1e9 to 1e9")
positive_float = number(float, lambda v: 0 < v < 1e9, "a number above 0 and below 1e9")
sensible_float = number(float, lambda v: 1e-3 <= v <= 1e3, "a number from 0.001 to 1000")
non_negative_float = number(float, lambda v: 0 <= v < 1e9, "a number of at least 0 and below 1e9")
minutes = number(float, lambda v: 0 < v <= 1e6, "minutes, above 0 and up to 1e6")
positive_share = number(float, lambda v: 0 < v <= 1, "a number above 0 and up to 1")
share = number(float, lambda v: 0 <= v <= 1, "a number from 0 to 1")
worker_count = number(int, lambda v: 0 <= v <= 256, "a whole number from 0 to 256")
image_size = number(int, lambda v: 16 <= v <= 512 and v % 8 == 0, "a multiple of 8 from 16 to 512")
wrn_depth = number(int, lambda v: 10 <= v < 1000 and v % 6 == 4, "6 n + 4, as 10, 16, 22, 28")


def gpu(text: str) -> str:
    return text if text == "cpu" else str(number(int, lambda v: 0 <= v < 1000, "a device number or 'cpu'")(text))


def common_parser(recipe: str, description: str, epochs: int, steps: int | None = 500) -> Parser:
    """The flags that all recipes share; `args.recipe` names the script. steps None: the data decide how many."""
    parser = Parser(description)
    parser.set_defaults(recipe=recipe)
    add = parser.add_argument
    add("--epochs", "--epoch", type=positive_int, default=epochs, help="epochs to train")
    if steps is not None:
        add("--val-iteration", type=positive_int, default=steps, help="steps per epoch")
    add("--batch-size", type=positive_int, default=64, help="labelled images per step")
    add("--lr", "--learning-rate", type=positive_float, default=0.002, help="learning rate")
    add("--ema-decay", type=share, default=0.999, help="share of the moving average kept per step")
    add("--data_root", type=path, default=Path("data"), help="folder of the data sets; missing ones are downloaded")
    add("--manualSeed", type=non_negative_int, default=0, help="seed of the split and of training")
    add("--gpu", type=gpu, default="0", help="number of the CUDA device (torchrun: left out), or 'cpu'")
    add("--out", type=path, default=Path("result"), help="folder for checkpoints, log and summary")
    add("--copy_every", type=positive_int, default=100, help="epochs between the checkpoints kept as copies")
    about = "minutes of training after which the run is saved and ends with exit code 124; the same command continues"
    add("--time_limit", metavar="MINUTES", type=minutes, help=about)
    add("--overwrite", action="store_true", help="discard the run that --out holds")
    add("--amp", action="store_true", help="compute the network's features in bfloat16")
    add("--channels_last", action="store_true", help="lay out images and activations with the channels last")
    about = "compile the network's features, in a mode of torch.compile (reduce-overhead: CUDA graphs)"
    add("--compile", nargs="?", choices=("default", "reduce-overhead"), const="default", help=about)
    about = "CUDA: compute float32's convolutions and products in TF32, with 10 bits of fraction"
    add("--tf32", action=argparse.BooleanOptionalAction, default=False, help=about)
    about = "CUDA: cuDNN takes the fastest algorithm by trial; a resumed run then isn't exact to the bit"
    add("--cudnn_benchmark", action="store_true", help=about)
    return parser


def add_graph_flag(parser: Parser) -> None:
    """For recipes whose batches have the same shapes in every step."""
    about = "CUDA: a training step is one CUDA graph, with the same bits"
    parser.add_argument("--graph", action="store_true", help=about)


def add_cifar_flags(parser: Parser, datasets: tuple[str, ...]) -> None:
    """Data set, its long-tailed split, and the Wide ResNet."""
    add = parser.add_argument
    about = "data set; folder: your own images in DATA_ROOT/labelled/CLASS, /unlabelled and /test/CLASS"
    add("--dataset", choices=datasets, default="cifar10", help=about)
    about = "side to which images of --dataset folder are resized, pixels; a multiple of 8"
    add("--img_size", type=image_size, default=32, help=about)
    add("--skip_corrupt", action="store_true", help="leave out unreadable images of --dataset folder, and say which")
    add("--num_max", type=positive_int, default=1500, help="labelled images of the largest class")
    add("--ratio", type=positive_float, default=2.0, help="unlabelled per labelled image of the largest class")
    add("--imb_ratio_l", type=nonzero_int, default=100, help="gamma of the labelled set: largest / smallest class")
    add("--imb_ratio_u", type=nonzero_int, default=100, help="gamma of the unlabelled set; negative: reversed")
    add("--width", type=positive_int, default=2, help="width factor of the Wide ResNet")
    add("--depth", type=wrn_depth, default=28, help="depth of the Wide ResNet, 6 n + 4")
    add_graph_flag(parser)


def add_small_imagenet_flags(parser: Parser) -> None:
    """The prepared set, its labelled share, and the ResNet-50."""
    add = parser.add_argument
    add("--img_size", type=int, choices=(32, 64), default=32, help="side of the images, pixels")
    add("--labeled_percent", type=positive_share, default=0.1, help="share of each class that is labelled, 0 to 1")
    add("--mu", type=positive_int, default=1, help="unlabelled images per labelled one in a step")
    add("--width", type=positive_int, default=64, help="channels of the ResNet-50's first stage")
    add_graph_flag(parser)


def add_food_flags(parser: Parser, ema_decay: float) -> None:
    """Food-101, its long-tailed split, its ResNet and the workers that decode it; defaults as published."""
    add = parser.add_argument
    parser.set_defaults(batch_size=256, lr=0.04, ema_decay=ema_decay, graph=False)
    about = "processes that decode images ahead of the steps; 0: this one does, when a step asks"
    add("--wd", type=non_negative_float, default=3e-4, help="weight decay of SGD")
    add("--mu", type=positive_int, default=2, help="unlabelled images per labelled one in a step")
    add("--num_max", type=positive_int, default=250, help="labelled images of the largest class")
    add("--ratio", type=positive_float, default=2.0, help="unlabelled per labelled image of the largest class")
    add("--imb_ratio_l", type=nonzero_int, default=50, help="gamma of the labelled set: largest / smallest class")
    add("--imb_ratio_u", type=nonzero_int, default=50, help="gamma of the unlabelled set; negative: reversed")
    add("--img_size", type=image_size, default=224, help="side of the crops, pixels; a multiple of 8")
    add("--depth", type=int, choices=(10, 18, 34, 50), default=50, help="depth of the ResNet")
    add("--workers", type=worker_count, default=spare_cpus(), help=about)
    add("--skip_corrupt", action="store_true", help="replace unreadable images by others, and say which and how many")


def spare_cpus() -> int:
    """How many worker processes this one may have: its share of the CPUs that it may use, 8 at most."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(8, max(1, cpus // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))


def add_schedule_flags(parser: Parser) -> None:
    """The learning rate of Food-101's pre-training: linear warm-up, then steps."""
    add = parser.add_argument
    add("--gamma", type=positive_float, default=0.1, help="factor on the learning rate every DECAY_EPOCHS epochs")
    add("--warmup_epochs", type=non_negative_int, default=5, help="epochs over which the learning rate grows from 0")
    add("--decay_epochs", type=positive_int, default=30, help="epochs between two steps of the learning rate")


def add_pretrain_flags(parser: Parser) -> None:
    add = parser.add_argument
    about = "checkpoint of this run to continue from; by itself, a run continues from the last one in --out"
    add("--resume", type=lambda text: Path(text) if text else None, default=None, help=about)


def add_fixmatch_flags(parser: Parser, tau: float) -> None:
    parser.add_argument("--tau", type=share, default=tau, help="confidence from which on a pseudo-label is used")


def add_mixing_flags(parser: Parser, lambda_u: float, about: str = "weight of the unlabelled loss") -> None:
    add = parser.add_argument
    add("--mix_alpha", type=sensible_float, default=0.75, help="MixUp: lambda ~ Beta(mix_alpha, mix_alpha)")
    add("--T", type=sensible_float, default=0.5, help="temperature that sharpens the guessed labels")
    add("--lambda-u", type=non_negative_float, default=lambda_u, help=about)


def add_remixmatch_flags(parser: Parser) -> None:
    add = parser.add_argument
    add("--w_rot", type=non_negative_float, default=0.5, help="weight of the rotation loss")
    add("--w_ent", type=non_negative_float, default=0.5, help="weight of the strong view's loss on the guessed label")
    add("--align", action="store_true", help="align the guesses with the labelled class distribution")


def add_cossl_flags(parser: Parser) -> None:
    add = parser.add_argument
    add("--resume", type=path, required=True, help="pre-training checkpoint that co-learning starts from")
    about = "how the balanced head learns after its warm-up: TFE, or cRT, which blends nothing"
    add("--classifier", choices=("tfe", "crt"), default="tfe", help=about)
    add("--max_lam", type=share, default=0.8, help="TFE: smallest share of the tail feature in a blend")
    add("--lr_tfe", type=positive_float, default=0.002, help="learning rate of the balanced head")
    add("--wd_tfe", type=non_negative_float, default=5e-4, help="weight decay of the balanced head's weight")
    add("--warm_tfe", type=positive_int, default=10, help="epochs of the balanced head's warm-up")


def path(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("expected a path, got ''")
    return Path(text)


def plain(args: argparse.Namespace) -> dict[str, str | int | float | bool | None]:
    """The arguments as plain values, for checkpoints and summaries."""
    return {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()}


def flag(name: str) -> str:
    """How the argument `name` is spelled on the command line."""
    dashed = {"batch_size", "val_iteration", "ema_decay", "lambda_u"}
    if name == "recipe":
        return "script"
    return "--" + (name.replace("_", "-") if name in dashed else name)


def pick_device(gpu: str) -> torch.device:
    """The device that `--gpu` names: without CUDA the CPU, and one line that says so.

    Under torchrun every process has the GPU of its number on its machine. On a GPU, convolutions and products are of
    float32, not of TF32, and cuDNN's algorithms are those that give the same bits each time, until flags say otherwise.
    Raises UserError for a number that this machine doesn't have.
    """
    if gpu == "cpu":
        return torch.device("cpu")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it, sums on several streams have no order
    if not torch.cuda.is_available():
        print(f"--gpu {gpu}: no CUDA device found, running on the CPU (--gpu cpu asks for it)")
        return torch.device("cpu")
    count, number = torch.cuda.device_count(), int(gpu)
    if world_size() > 1:
        if number:
            raise UserError(f"--gpu {gpu}: torchrun gives a GPU to each process; leave --gpu out")
        number = int(os.environ["LOCAL_RANK"])
        if number >= count:
            raise UserError(f"--nproc_per_node: more processes than this machine has CUDA devices ({count})")
    if number >= count:
        raise UserError(f"--gpu {gpu}: this machine has {count} CUDA device(s), numbered from 0")
    torch.cuda.set_device(number)  # for NCCL, and for the kernel
    use_tf32(False)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    return torch.device("cuda", number)


def use_tf32(on: bool) -> None:
    """Whether CUDA's convolutions and products may round float32 to TF32. (PyTorch's default differs between them.)"""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = on
