"""Pre-train MixMatch on long-tailed CIFAR-10, CIFAR-100, Fashion-MNIST or digits.

    python train_cifar_mix.py --ratio 2 --num_max 1500 --imb_ratio_l 150 --imb_ratio_u 150 \
        --epoch 500 --val-iteration 500 --out DIR --manualSeed 1 --gpu 0

Afterwards, train_cifar_mix_cossl.py co-learns from DIR/checkpoint_401.pth.tar.
"""

from utils.start import run_main

from functools import partial
from pathlib import Path

import torch

from dataset.image_loader import open_loader
from dataset.streams import open_data
from methods.averaged import Averaged, adam
from methods.mixmatch import mixmatch
from methods.schedules import linear_rampup
from methods.step import ssl_step
from methods.warmup import warm_up_output
from models.build import build_network, learning_parameters, shrink_of
from training.run import open_run
from training.speed import accelerate
from utils.args import recipe_args
from utils.flags import CIFAR, RUN
from utils.method_flags import MIXING, PRETRAIN


def main() -> None:
    args = recipe_args(Path(__file__), __doc__, RUN, CIFAR, PRETRAIN, MIXING, epochs=500, unlabelled="disjoint")
    with open_run(args) as run, open_loader(args, run.device) as loader:

        def lambda_u(t: int) -> float:
            return args.lambda_u * linear_rampup(t / args.val_iteration, args.epochs)

        method = mixmatch(args.T, args.mix_alpha, lambda_u)
        data = open_data(args, method.views, loader=loader)

        torch.manual_seed(args.manualSeed)
        network = build_network(args, len(data.classes), run.start is None).to(run.device)
        optimizer = adam(learning_parameters(network, args), args.lr)
        student = accelerate(Averaged(network, optimizer, args.ema_decay, shrink=shrink_of(args)), args)

        # The live network labels for itself, in train mode, so its BatchNorm statistics move. Its average is evaluated.
        step = ssl_step(method, student, labeller=student.live)
        before = partial(warm_up_output, student.ema.features, student, data, args.lr) if args.weights else None
        run.fit(step, student.ema, data, args.val_iteration, student, before=before)


if __name__ == "__main__":
    run_main(main)
