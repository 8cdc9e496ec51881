"""The paper's figures, and the runs that they are to be compared with.

Source: Fan, Dai, Kukleva, Schiele, "CoSSL: Co-Learning of Representation and Classifier for Imbalanced Semi-Supervised
Learning", CVPR 2022, arXiv 2112.04564: in percent, mean over the last 20 epochs, mean and standard deviation over three
seeds (Food-101-LT and Small-ImageNet-127: one figure without deviation). On CIFAR it is top-1, on
the other two, by the published code, balanced accuracy.
"""

from typing import Any

from reporting.means import Figure

_CIFAR10, _CIFAR100 = ("cifar10", "imb_ratio_l", (50, 100, 150)), ("cifar100", "imb_ratio_l", (20, 50, 100))
_ROWS = (
    ("MixMatch+CoSSL", *_CIFAR10, ((80.3, 0.31), (76.4, 1.14), (73.5, 1.25))),
    ("ReMixMatch+CoSSL", *_CIFAR10, ((87.7, 0.21), (84.1, 0.56), (81.3, 0.83))),
    ("FixMatch+CoSSL", *_CIFAR10, ((86.8, 0.30), (83.2, 0.49), (80.3, 0.55))),
    ("ReMixMatch+CoSSL", *_CIFAR100, ((55.8, 0.62), (48.9, 0.61), (44.1, 0.59))),
    ("FixMatch+CoSSL", *_CIFAR100, ((53.9, 0.78), (47.6, 0.57), (43.0, 0.61))),
    ("FixMatch+CoSSL", "food101", "imb_ratio_l", (50, 100), ((49.0, None), (40.4, None))),
    ("FixMatch+CoSSL", "small_imagenet127", "img_size", (32, 64), ((43.7, None), (54.4, None))),
)
# What the published runs were given; what a run's arguments lack is not compared.
_CIFAR = {
    "ratio": 2,
    "width": 2,
    "depth": 28,
    "lr": 0.002,
    "ema_decay": 0.999,
    "tau": 0.95,
    "mix_alpha": 0.75,
    "T": 0.5,
    "w_rot": 0.5,
    "w_ent": 0.5,
    "align": True,
    "max_lam": 0.6,
    "lr_tfe": 0.002,
    "wd_tfe": 5e-4,
    "warm_tfe": 10,
    "classifier": "tfe",
}
_PROTOCOLS = {
    "cifar10": _CIFAR | {"num_max": 1500},
    "cifar100": _CIFAR | {"num_max": 150},
    "food101": {
        "num_max": 250,
        "ratio": 2,
        "depth": 50,
        "img_size": 224,
        "max_lam": 0.6,
        "tau": 0.9,
        "lr": 0.04,
        "wd": 3e-4,
        "ema_decay": 0.9,
        "mu": 2,
        "lr_tfe": 0.04,
        "wd_tfe": 5e-4,
        "warm_tfe": 5,
        "classifier": "tfe",
    },
    "small_imagenet127": _CIFAR | {"width": 64, "labeled_percent": 0.1, "mu": 1},
}
_METHODS = {"ReMixMatch+CoSSL": {"lambda_u": 1.5}}  # an argument that MixMatch+CoSSL has, and doesn't use
_BUDGET = {"epochs": 100, "val_iteration": 500, "batch_size": 64, "start_epoch": 401}
_BUDGETS = {"food101": {"epochs": 200, "batch_size": 256, "start_epoch": 801}}
_WORDS = {"val_iteration": "steps per epoch", "batch_size": "batch", "start_epoch": "epochs of pre-training"}


def compared_metric(dataset: str) -> str:
    """What the published figures of a data set are, by its name in METRICS."""
    return "balanced" if dataset in ("food101", "small_imagenet127") else "top1"


def published(method: str, dataset: str, arguments: dict[str, Any]) -> Figure | None:
    """The paper's figure for a method where data set, imbalance and hyper-parameters are the published ones."""
    for name, data, key, values, figures in _ROWS:
        if (name, data) != (method, dataset) or arguments.get(key) not in values:
            continue
        if arguments.get("imb_ratio_l") != arguments.get("imb_ratio_u"):
            continue
        expected = _PROTOCOLS[dataset] | _METHODS.get(method, {}) | {"amp": False, "tf32": False}
        if any(arguments.get(k, v) != v for k, v in expected.items()):
            continue
        mean, sd = figures[values.index(arguments[key])]
        return Figure(mean, sd, 1 if sd is None else 3)
    return None


def other_budget(dataset: str, arguments: dict[str, Any]) -> str:
    """How the length of training differs from the published one, in words; empty if it doesn't."""
    expected = _BUDGETS.get(dataset, _BUDGET)
    different = [key for key, value in expected.items() if arguments.get(key, value) != value]
    return ", ".join(f"{_WORDS.get(key, key)} {arguments[key]}, not {expected[key]}" for key in different)
