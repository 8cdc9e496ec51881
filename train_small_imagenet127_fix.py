"""Pre-train FixMatch on Small-ImageNet-127, as prepare_small_imagenet_127.py leaves it.

    python train_small_imagenet127_fix.py --img_size 32 --data_root PREPARED \
        --epoch 500 --val-iteration 500 --out DIR --manualSeed 1 --gpu 0

Afterwards, train_small_imagenet127_fix_cossl.py co-learns from DIR/checkpoint_401.pth.tar.
"""

from utils.start import run_main

from pathlib import Path

import torch

from dataset.small_imagenet127 import open_small_imagenet
from methods.averaged import Averaged, adam
from methods.fixmatch import fixmatch
from methods.step import ssl_step
from models.resnet import ResNet50
from training.run import open_run
from training.speed import accelerate
from utils.args import recipe_args
from utils.flags import RUN, SMALL_IMAGENET
from utils.method_flags import FIXMATCH, PRETRAIN


def main() -> None:
    flags = RUN, SMALL_IMAGENET, PRETRAIN, FIXMATCH
    args = recipe_args(Path(__file__), __doc__, *flags, epochs=500)
    with open_run(args) as run:
        method = fixmatch(args.tau)
        data = open_small_imagenet(args, method.views, run.device)

        torch.manual_seed(args.manualSeed)
        network = ResNet50(len(data.classes), args.width).to(run.device)
        optimizer = adam(network.parameters(), args.lr)
        student = accelerate(Averaged(network, optimizer, args.ema_decay, shrink=0.02 * args.lr), args)

        # The live network labels for itself, in train mode, so its BatchNorm statistics move. Its average is evaluated.
        step = ssl_step(method, student, labeller=student.live)
        run.fit(step, student.ema, data, args.val_iteration, student)


if __name__ == "__main__":
    run_main(main)
