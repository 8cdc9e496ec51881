"""Pre-train FixMatch on Food-101-LT.

    python train_food_fix.py --ratio 2 --num_max 250 --imb_ratio_l 50 --imb_ratio_u 50 \
        --epoch 1000 --decay_epochs 9000 --out DIR --manualSeed 1 --gpu 0

Afterwards, train_food_fix_cossl.py co-learns from DIR/checkpoint_801.pth.tar.
"""

from utils.start import run_main

from functools import partial
from pathlib import Path

import torch
from torch.optim import SGD

from dataset.food101 import open_food101
from dataset.image_loader import open_loader
from methods.averaged import Averaged
from methods.chunks import in_chunks
from methods.fixmatch import VIEWS, fixmatch
from methods.schedules import scheduled, warm_up_then_steps
from methods.step import ssl_step
from models.torchvision_resnet import TorchvisionResNet
from training.run import open_run
from training.speed import accelerate
from utils.args import recipe_args
from utils.flags import FOOD, FOOD_DEFAULTS, RUN
from utils.method_flags import FIXMATCH, PRETRAIN, SCHEDULE

ONE_STRONG_VIEW = VIEWS | {"unlabelled": ("weak", "strong")}  # as published


def main() -> None:
    flags, defaults = (RUN, FOOD, PRETRAIN, SCHEDULE, FIXMATCH), FOOD_DEFAULTS | {"epochs": 90, "tau": 0.9}
    args = recipe_args(Path(__file__), __doc__, *flags, **defaults)
    with open_run(args) as run, open_loader(args, run.device) as loader:
        data = open_food101(args, ONE_STRONG_VIEW, loader)
        steps = len(data.unlabelled.members) // data.unlabelled.batch_size  # the unlabelled set once an epoch

        torch.manual_seed(args.manualSeed)
        network = TorchvisionResNet(len(data.classes), args.depth).to(run.device)
        optimizer = SGD(network.parameters(), args.lr, momentum=0.9, weight_decay=args.wd, nesterov=True)
        student = accelerate(Averaged(network, optimizer, args.ema_decay), args)

        # The live network labels for itself, in train mode, so its BatchNorm statistics move. Its average is evaluated.
        step = ssl_step(in_chunks(fixmatch(args.tau)), student, labeller=student.live)
        warm_up, every = args.warmup_epochs * steps, args.decay_epochs * steps
        rate = partial(warm_up_then_steps, lr=args.lr, gamma=args.gamma, warm_up=warm_up, every=every)
        run.fit(scheduled(step, optimizer, rate), student.ema, data, steps, student)


if __name__ == "__main__":
    run_main(main)
