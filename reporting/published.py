"""Published figures, and the runs that they are to be compared with.

In percent, mean over the last 20 epochs, on CIFAR also over three seeds, with standard deviation where it surely is
one. On CIFAR it is top-1, on the other two, by the published code, balanced accuracy. Sources:
Fan, Dai, Kukleva, Schiele, "CoSSL: Co-Learning of Representation and Classifier for Imbalanced Semi-Supervised
Learning", CVPR 2022, arXiv 2112.04564. And for plain methods by the same protocol, as others quote them:
Kim et al., "Distribution Aligning Refinery of Pseudo-label for Imbalanced Semi-supervised Learning" (DARP), NeurIPS
2020, arXiv 2007.08844, table 1: MixMatch.
Lee, Kim, "CDMAD: Class-Distribution-Mismatch-Aware Debiasing for Class-Imbalanced Semi-Supervised Learning", CVPR
2024, arXiv 2403.10391, tables 1 and 4: FixMatch.
"""

from typing import Any, NamedTuple

from reporting.means import Figure


class PublishedFigure(NamedTuple):
    """source: whose it is, in words."""

    figure: Figure
    source: str


_CIFAR10, _CIFAR100 = ("cifar10", "imb_ratio_l", (50, 100, 150)), ("cifar100", "imb_ratio_l", (20, 50, 100))
_COSSL, _DARP, _CDMAD = "Fan et al. 2022 (CoSSL)", "Kim et al. 2020 (DARP)", "Lee and Kim 2024 (CDMAD)"
_ROWS = (
    ("MixMatch+CoSSL", *_CIFAR10, ((80.3, 0.31), (76.4, 1.14), (73.5, 1.25)), _COSSL),
    ("ReMixMatch+CoSSL", *_CIFAR10, ((87.7, 0.21), (84.1, 0.56), (81.3, 0.83)), _COSSL),
    ("FixMatch+CoSSL", *_CIFAR10, ((86.8, 0.30), (83.2, 0.49), (80.3, 0.55)), _COSSL),
    ("ReMixMatch+CoSSL", *_CIFAR100, ((55.8, 0.62), (48.9, 0.61), (44.1, 0.59)), _COSSL),
    ("FixMatch+CoSSL", *_CIFAR100, ((53.9, 0.78), (47.6, 0.57), (43.0, 0.61)), _COSSL),
    ("FixMatch+CoSSL", "food101", "imb_ratio_l", (50, 100), ((49.0, None), (40.4, None)), _COSSL),
    ("FixMatch+CoSSL", "small_imagenet127", "img_size", (32, 64), ((43.7, None), (54.4, None)), _COSSL),
    ("MixMatch", *_CIFAR10, ((73.2, None), (64.8, None), (62.5, None)), _DARP),
    ("FixMatch", *_CIFAR10, ((79.2, None), (71.5, None), (68.4, None)), _CDMAD),
    ("FixMatch", *_CIFAR100, ((49.6, None), (42.1, None), (37.6, None)), _CDMAD),
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
# An argument that MixMatch+CoSSL has, and doesn't use.
_METHODS = {"ReMixMatch+CoSSL": {"lambda_u": 1.5}, "MixMatch": {"lambda_u": 75}}
_PRETRAINING = {"epochs": 500, "val_iteration": 500, "batch_size": 64}
_CO_LEARNING = _PRETRAINING | {"epochs": 100, "start_epoch": 401}
_BUDGETS = {"food101": {"epochs": 200, "batch_size": 256, "start_epoch": 801}}
_WORDS = {"val_iteration": "steps per epoch", "batch_size": "batch", "start_epoch": "epochs of pre-training"}


def compared_metric(dataset: str) -> str:
    """What the published figures of a data set are, by its name in METRICS."""
    return "balanced" if dataset in ("food101", "small_imagenet127") else "top1"


def published(method: str, dataset: str, arguments: dict[str, Any]) -> PublishedFigure | None:
    """The figure of a method where data set, imbalance and hyper-parameters are the published ones."""
    for name, data, key, values, figures, source in _ROWS:
        if (name, data) != (method, dataset) or arguments.get(key) not in values:
            continue
        if arguments.get("imb_ratio_l") != arguments.get("imb_ratio_u") or not _in_class_order(arguments):
            continue
        usual = {"amp": False, "tf32": False, "unlabelled": "disjoint" if "MixMatch" in method else "included"}
        expected = _PROTOCOLS[dataset] | _METHODS.get(method, {}) | usual
        if any(arguments.get(k, v) != v for k, v in expected.items()):
            continue
        mean, sd = figures[values.index(arguments[key])]
        return PublishedFigure(Figure(mean, sd, 3 if dataset in ("cifar10", "cifar100") else 1), source)
    return None


def _in_class_order(arguments: dict[str, Any]) -> bool:
    """Whether the frequent classes of the unlabelled set are those of the labelled one."""
    return arguments.get("order") in (None, "consistent")


def other_budget(method: str, dataset: str, arguments: dict[str, Any]) -> str:
    """How the length of training differs from the published one, in words; empty if it doesn't."""
    expected = _BUDGETS.get(dataset, _CO_LEARNING) if "+" in method else _PRETRAINING
    expected = expected | {"schedule": "published"}
    different = [key for key, value in expected.items() if arguments.get(key, value) != value]
    return ", ".join(f"{_WORDS.get(key, key)} {arguments[key]}, not {expected[key]}" for key in different)
