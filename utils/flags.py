"""The flags of runs and of data sets, in groups; `FLAGS` finds any flag by its name."""

from argparse import BooleanOptionalAction
from pathlib import Path

from utils.args import DATA, PLACE, REFUSE, SPEED, WARN, Flag, arch, flag, ignored, switch
from utils.flag_types import (
    class_order,
    gpu,
    image_size,
    inner_share,
    minutes,
    non_negative_float,
    non_negative_int,
    nonzero_int,
    path,
    positive_float,
    positive_int,
    positive_share,
    share,
    spare_cpus,
    tune,
    weights,
    worker_count,
    wrn_depth,
)
from utils.method_flags import OF_METHODS

_LIMIT = "minutes of training after which the run is saved and ends with exit code 124; the same command continues"
_COMPILE = "compile the network's features, in a mode of torch.compile (reduce-overhead: CUDA graphs)"
_LAST = "lay out images and activations with the channels last"
_TF32 = "CUDA: compute float32's convolutions and products in TF32, with 10 bits of fraction"
_BENCHMARK = "CUDA: cuDNN takes the fastest algorithm by trial; a resumed run then isn't exact to the bit"
_MODES = ("default", "reduce-overhead")
RUN = (
    flag("--epochs --epoch", positive_int, None, "epochs to train"),
    ignored("--start-epoch", type=non_negative_int),
    flag("--batch-size", positive_int, 64, "labelled images per step"),
    flag("--lr --learning-rate", positive_float, 0.002, "learning rate"),
    flag("--ema-decay", share, 0.999, "share of the moving average kept per step"),
    flag("--data_root", path, Path("data"), "folder of the data sets; missing ones are downloaded", role=PLACE),
    flag("--manualSeed", non_negative_int, 0, "seed of the split and of training", stages=WARN),
    flag("--gpu", gpu, "0", "number of the CUDA device (torchrun: left out), or 'cpu'", role=PLACE),
    flag("--out", path, Path("result"), "folder for checkpoints, log and summary", role=PLACE),
    flag("--copy_every", positive_int, 100, "epochs between the checkpoints kept as copies", role=PLACE),
    flag("--time_limit", minutes, None, _LIMIT, role=PLACE, metavar="MINUTES"),
    flag("--rank_timeout", minutes, 30, "torchrun: how long to wait for a process", role=PLACE, metavar="MINUTES"),
    switch("--overwrite", "discard the run that --out holds", PLACE),
    switch("--amp", "compute the network's features in bfloat16"),
    switch("--channels_last", _LAST, SPEED, action=BooleanOptionalAction),
    flag("--compile", str, None, _COMPILE, role=SPEED, nargs="?", choices=_MODES, const="default"),
    switch("--tf32", _TF32, action=BooleanOptionalAction),
    switch("--cudnn_benchmark", _BENCHMARK, SPEED),
)
_SCHEDULE = "short, for fewer steps: Muon for convolutions, faster heads, averages that start short (docs/speed.md)"
# For recipes whose flags say how many steps an epoch has, and whose batches have the same shapes in every step.
STEPS = (
    flag("--val-iteration", positive_int, 500, "steps per epoch"),
    switch("--graph", "CUDA: a training step is one CUDA graph, with the same bits", PLACE),
    flag("--schedule", str, "published", _SCHEDULE, stages=WARN, choices=("published", "short")),
)
_BOTH = {"role": DATA, "stages": WARN}
_ORDER = "which classes the unlabelled set has most images of: consistent (class 0 first, as in the labelled set), "
_ORDER += "reversed, or all class numbers, the most frequent class first; not with a negative --imb_ratio_u"
LONG_TAIL = (
    flag("--num_max", positive_int, 1500, "labelled images of the largest class", **_BOTH),
    flag("--ratio", positive_float, 2.0, "unlabelled per labelled image of the largest class", **_BOTH),
    flag("--imb_ratio_l", nonzero_int, 100, "gamma of the labelled set: largest / smallest class", **_BOTH),
    flag("--imb_ratio_u", nonzero_int, 100, "gamma of the unlabelled set; negative: reversed", **_BOTH),
    flag("--order", class_order, None, _ORDER, **_BOTH),
)
_UNLABELLED = "whether the unlabelled set holds the labelled images, too (unless given, as published)"
_UNLABELLED_OPTIONS = {"choices": ("included", "disjoint")} | _BOTH
UNLABELLED = flag("--unlabelled", str, "included", _UNLABELLED, **_UNLABELLED_OPTIONS)
_DATASETS = ("cifar10", "cifar100", "fashion_mnist", "digits", "stl10", "folder")
_DATASET = "data set; folder: your own images, in folders or in the CSV DATA_ROOT (docs/own-images.md)"
_HOLDOUT = "--dataset folder: share of each class's labelled images to hold out, for the best checkpoint or as test set"
_SIZE = {"role": DATA, "stages": REFUSE}
_ARCH = "network: wrn-28-2 and the like (--depth, --width), one of torchvision, as resnet18, or of timm, as timm:NAME"
_WEIGHTS = "pre-trained weights: a state dict's file, 'default' (the library's download) or 'none'; with them other"
_WEIGHTS += " defaults hold (docs/own-images.md)"
_TUNE = "which layers of a pre-trained network learn: all (if not given), last:N, the normalisations (norm), or none"
NETWORK = (
    arch(_ARCH),
    flag("--weights", weights, None, _WEIGHTS, stages=REFUSE, metavar="FILE"),
    flag("--tune", tune, None, _TUNE, stages=REFUSE),
    flag("--lr_body", positive_float, None, "learning rate of a network of --arch below its classifier", metavar="LR"),
)
_SIDE = "--dataset folder: side to resize to, or above 64 that of crops, pixels; a multiple of 8"
_WORKERS = "processes that decode images of Food-101, and own ones above 64 pixels, ahead of the steps; "
_WORKERS += "0: this one does, when a step asks"
_SKIP = "leave out unreadable images of --dataset folder (above 64 pixels: replace them by others), and say which"
WORKERS = flag("--workers", worker_count, spare_cpus(), _WORKERS, role=PLACE)
CIFAR = (
    *STEPS,
    ignored("--step", nargs=0),
    flag("--dataset", str, "cifar10", _DATASET, stages=REFUSE, choices=_DATASETS),
    flag("--img_size", image_size, 32, _SIDE, **_SIZE),
    WORKERS,
    switch("--skip_corrupt", _SKIP, PLACE),
    flag("--holdout", inner_share, None, _HOLDOUT, role=DATA, stages=REFUSE, metavar="SHARE"),
    *LONG_TAIL,
    UNLABELLED,
    flag("--width", positive_int, 2, "width factor of the Wide ResNet", stages=REFUSE),
    flag("--depth", wrn_depth, 28, "depth of the Wide ResNet, 6 n + 4", stages=REFUSE),
    *NETWORK,
)
_PREPARED = "small_imagenet127", "small_imagenet1k"
_SMALL = "data set, as prepared; small_imagenet1k: ImageNet-1k-LT, published with other defaults (docs/reproduce.md)"
SMALL_IMAGENET = (
    *STEPS,
    flag("--dataset", str, "small_imagenet127", _SMALL, stages=REFUSE, choices=_PREPARED),
    flag("--img_size", int, 32, "side of the images, pixels", choices=(32, 64), **_SIZE),
    flag("--labeled_percent", positive_share, 0.1, "share of each class that is labelled, 0 to 1", **_BOTH),
    UNLABELLED,
    flag("--mu", positive_int, 1, "unlabelled images per labelled one in a step"),
    flag("--width", positive_int, 64, "channels of the ResNet-50's first stage", stages=REFUSE),
)
FOOD = (
    flag("--wd", non_negative_float, 3e-4, "weight decay of SGD"),
    flag("--mu", positive_int, 2, "unlabelled images per labelled one in a step"),
    *LONG_TAIL,
    UNLABELLED,
    flag("--img_size", image_size, 224, "side of the crops, pixels; a multiple of 8", **_SIZE),
    flag("--depth", int, 50, "depth of the ResNet", choices=(10, 18, 34, 50), stages=REFUSE),
    WORKERS,
    switch("--skip_corrupt", "replace unreadable images by others, and say which and how many", PLACE),
)
FOOD_DEFAULTS = {
    "dataset": "food101",
    "batch_size": 256,
    "lr": 0.04,
    "num_max": 250,
    "imb_ratio_l": 50,
    "imb_ratio_u": 50,
    "graph": False,
    "schedule": "published",
}
GROUPS = (RUN, CIFAR, SMALL_IMAGENET, FOOD, *OF_METHODS)
FLAGS: dict[str, Flag] = {one.name: one for group in GROUPS for one in group}


def spelled(name: str) -> str:
    """How the argument `name` of a run is spelled on the command line; its script isn't a flag."""
    return FLAGS[name].names[0] if name in FLAGS else "script" if name == "recipe" else f"--{name}"


def with_role(*roles: str) -> list[str]:
    """The names of the flags of these roles."""
    return [name for name, one in FLAGS.items() if one.role in roles]
