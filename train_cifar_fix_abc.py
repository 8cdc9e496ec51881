"""Pre-train FixMatch with ABC's balanced second head on long-tailed CIFAR-10, CIFAR-100, Fashion-MNIST or digits.

    python train_cifar_fix_abc.py --ratio 2 --num_max 1500 --imb_ratio_l 100 --imb_ratio_u -100 \
        --epochs 500 --val-iteration 500 --out DIR --manualSeed 1 --gpu 0

The balanced head is evaluated.
"""

from utils.start import run_main

from pathlib import Path
from typing import Any

import torch
from torch import nn

from dataset.image_loader import open_loader
from dataset.streams import open_data
from methods.averaged import Averaged, adam
from methods.balanced import abc
from methods.fixmatch import VIEWS
from methods.prior import class_prior
from methods.step import ssl_step
from methods.warmup import warm_up_output
from models.build import build_network, learning_parameters, shrink_of
from training.run import open_run
from training.speed import accelerate
from utils.args import recipe_args
from utils.flags import CIFAR, RUN
from utils.method_flags import ABC, FIXMATCH, PRETRAIN


def main() -> None:
    flags = RUN, CIFAR, PRETRAIN, FIXMATCH, ABC
    args = recipe_args(Path(__file__), __doc__, *flags, epochs=500, unlabelled="disjoint")
    with open_run(args) as run, open_loader(args, run.device) as loader:
        data = open_data(args, VIEWS, loader=loader)
        prior = class_prior(data, run.device, args.warm_prior * args.val_iteration) if args.keep == "prior" else None

        torch.manual_seed(args.manualSeed)
        network = build_network(args, len(data.classes), run.start is None).to(run.device)
        standard = nn.Linear(network.output.in_features, len(data.classes)).to(run.device)
        optimizer = adam(learning_parameters(network, args, standard), args.lr)
        student = accelerate(Averaged(network, optimizer, args.ema_decay, shrink=shrink_of(args)), args)

        # Both live heads label for themselves, on features of the average, or as published of the live network.
        counts, total = torch.from_numpy(data.counts).to(run.device), args.epochs * args.val_iteration
        scorer: Any = student.live if args.labels_by == "live" else student.ema
        step = ssl_step(abc(args.tau, standard, counts, prior, total), student, labeller=scorer.features)

        def before() -> None:
            warm_up_output(student.ema.features, student, data, args.lr)
            standard.load_state_dict(network.output.state_dict())

        run.fit(step, student.ema, data, args.val_iteration, student, before=before if args.weights else None)


if __name__ == "__main__":
    run_main(main)
