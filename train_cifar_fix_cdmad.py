"""Pre-train FixMatch with CDMAD, which takes away what a network says of an image without content.

    python train_cifar_fix_cdmad.py --ratio 2 --num_max 1500 --imb_ratio_l 100 --imb_ratio_u -100 \
        --epochs 500 --val-iteration 500 --out DIR --manualSeed 1 --gpu 0

Pseudo-labels and evaluation are both debiased.
"""

from utils.start import run_main

from functools import partial
from pathlib import Path

import torch

from dataset.image_loader import open_loader
from dataset.streams import open_data
from methods.averaged import Averaged, adam
from methods.cdmad import ConstantImage, cdmad, debiased
from methods.fixmatch import VIEWS
from methods.step import ssl_step
from methods.warmup import warm_up_output
from models.build import build_network, learning_parameters, shrink_of
from training.run import open_run
from training.speed import accelerate
from utils.args import recipe_args
from utils.flags import CIFAR, RUN
from utils.method_flags import CDMAD, PRETRAIN


def main() -> None:
    args = recipe_args(Path(__file__), __doc__, RUN, CIFAR, PRETRAIN, CDMAD, epochs=500)
    with open_run(args) as run, open_loader(args, run.device) as loader:
        data = open_data(args, VIEWS, loader=loader)

        torch.manual_seed(args.manualSeed)
        network = build_network(args, len(data.classes), run.start is None).to(run.device)
        optimizer = adam(learning_parameters(network, args), args.lr)
        student = accelerate(Averaged(network, optimizer, args.ema_decay, shrink=shrink_of(args)), args)

        # The average labels, in eval mode, or as published the live network, in train mode. The average is evaluated.
        constant = ConstantImage(data.facts()["img_size"]).to(run.device)
        method = cdmad(constant, int(args.debias_from * args.epochs * args.val_iteration))
        step = ssl_step(method, student, labeller=student.live if args.labels_by == "live" else student.ema)
        before = partial(warm_up_output, student.ema.features, student, data, args.lr) if args.weights else None
        run.fit(step, debiased(student.ema, constant), data, args.val_iteration, student, before=before)


if __name__ == "__main__":
    run_main(main)
