"""Pre-train FixMatch with offset logits (LA, SimPro, ADELLO), for unlabelled images that are distributed otherwise.

    python train_cifar_fix_prior.py --ratio 2 --num_max 1500 --imb_ratio_l 100 --imb_ratio_u -100 \
        --epochs 500 --val-iteration 500 --out DIR --manualSeed 1 --gpu 0

Afterwards, train_cifar_fix_prior_cossl.py co-learns from DIR/checkpoint_401.pth.tar.
"""

from utils.start import run_main

from functools import partial
from pathlib import Path

import torch

from dataset.image_loader import open_loader
from dataset.streams import open_data
from methods.averaged import Averaged, adam
from methods.fixmatch import VIEWS
from methods.offsets import adello, la, simpro
from methods.prior import class_prior, with_prior
from methods.step import ssl_step
from methods.warmup import warm_up_output
from models.build import build_network, learning_parameters, shrink_of
from training.run import open_run
from training.speed import accelerate
from utils.args import recipe_args
from utils.errors import UserError
from utils.flags import CIFAR, RUN
from utils.method_flags import FIXMATCH, OFFSETS, PRETRAIN


def main() -> None:
    flags = RUN, CIFAR, PRETRAIN, FIXMATCH, OFFSETS
    args = recipe_args(Path(__file__), __doc__, *flags, epochs=500, unlabelled="disjoint")
    if args.published_prior and args.preset != "simpro":
        raise UserError(f"--published_prior: of --preset simpro, not of {args.preset}")
    with open_run(args) as run, open_loader(args, run.device) as loader:
        data = open_data(args, VIEWS, loader=loader)

        # The estimated class distribution of the unlabelled images; SimPro's as published, of those guessed surely.
        published = {"momentum": 0.9, "every": 500} if args.published_prior else {}
        prior = class_prior(data, run.device, args.warm_prior * args.val_iteration, **published)

        torch.manual_seed(args.manualSeed)
        network = build_network(args, len(data.classes), run.start is None).to(run.device)
        optimizer = adam(learning_parameters(network, args), args.lr)
        student = accelerate(Averaged(network, optimizer, args.ema_decay, shrink=shrink_of(args)), args)

        # The average labels, in eval mode, or as published the live network, in train mode, whose BatchNorm hides how
        # the unlabelled images are distributed; with SimPro helped by the prior. The average is evaluated.
        labeller = scorer = student.live if args.labels_by == "live" else student.ema
        if args.preset == "la":
            method = la(args.tau, prior.labelled, args.strength)
        elif args.preset == "simpro":
            method, sure = simpro(args.tau, prior, args.strength), args.tau if args.published_prior else 0.0
            labeller = with_prior(scorer, prior, args.strength, args.strength, keep_from=sure)
        else:
            method = adello(args.tau, prior, prior.labelled, args.epochs * args.val_iteration)
            labeller = with_prior(scorer, prior, strength=0.0, e_step=0.0)
        step = ssl_step(method, student, labeller)
        before = partial(warm_up_output, student.ema.features, student, data, args.lr) if args.weights else None
        run.fit(step, student.ema, data, args.val_iteration, student, before=before)


if __name__ == "__main__":
    run_main(main)
