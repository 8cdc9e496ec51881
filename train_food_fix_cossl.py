"""Co-learn (CoSSL) on a network that train_food_fix.py has pre-trained with FixMatch.
--lr is the head's; the network's is the checkpoint's.

    python train_food_fix_cossl.py --ratio 2 --num_max 250 --imb_ratio_l 50 --imb_ratio_u 50 \
        --epoch 200 --tau 0.90 --resume DIR/checkpoint_801.pth.tar --out DIR2 --max_lam 0.6 --manualSeed 1 --gpu 0
"""

from utils.start import run_main

from copy import deepcopy
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.optim import SGD

from dataset.food101 import open_food101
from dataset.image_loader import open_loader
from methods.averaged import Averaged
from methods.chunks import in_chunks
from methods.classifier import crt, decay_all_but_bias, tfe
from methods.fixmatch import VIEWS, fixmatch
from methods.step import cossl_step
from methods.warmup import warm_up_on_batches
from models.torchvision_resnet import TorchvisionResNet
from training.run import open_run
from training.speed import accelerate
from training.stage1 import stage1_arguments
from utils.args import recipe_args
from utils.flags import FOOD, FOOD_DEFAULTS, RUN
from utils.method_flags import COSSL, FIXMATCH

ONE_STRONG_VIEW = VIEWS | {"unlabelled": ("weak", "strong")}  # as published
DEFAULTS = FOOD_DEFAULTS | {"epochs": 20, "ema_decay": 0.9, "max_lam": 0.6, "lr_tfe": 0.04, "warm_tfe": 5}
# Of the head's warm-up: steps per epoch, images per step whatever --batch-size, share of its average kept per step.
WARM_UP_STEPS, WARM_UP_BATCH, WARM_UP_DECAY = 50, 256, 0.99


def main() -> None:
    args = recipe_args(Path(__file__), __doc__, RUN, FOOD, COSSL, FIXMATCH, stage1=stage1_arguments, **DEFAULTS)
    with open_run(args) as run, open_loader(args, run.device) as loader:
        stage1 = run.pretrained(args.resume)
        data = open_food101(args, ONE_STRONG_VIEW, loader)

        # Representation: FixMatch trains the network, a momentum encoder follows it.
        torch.manual_seed(args.manualSeed)
        sgd = partial(SGD, momentum=0.9, nesterov=True)
        network = TorchvisionResNet(len(data.classes), args.depth).to(run.device)
        rate = stage1["optimizer"]["param_groups"][0]["lr"]  # where pre-training's schedule was (published code)
        student = Averaged(network, sgd(network.parameters(), rate, weight_decay=args.wd), args.ema_decay)
        student.load(stage1)
        features = accelerate(student, args).ema.features

        # Classifier: a linear head learns on class-balanced, frozen features. It has learnt in pre-training.
        head = deepcopy(student.ema.output).requires_grad_()
        teacher = Averaged(head, sgd(decay_all_but_bias(head, args.wd_tfe), args.lr), args.ema_decay)
        learner = tfe(data.counts, args.max_lam, run.device) if args.classifier == "tfe" else crt()

        # Pseudo-labels: by the live head on the momentum encoder. Evaluated: the head's average on it.
        def labeller(images: Tensor) -> Tensor:
            return teacher.live(features(images))

        def predict(images: Tensor) -> Tensor:
            return teacher.ema(features(images))

        def before() -> None:
            fresh = teacher.using(sgd(decay_all_but_bias(head, args.wd_tfe), args.lr_tfe), WARM_UP_DECAY)
            batches = data.batches(("balanced",), name="warm-up", batch_size=WARM_UP_BATCH)
            warm_up_on_batches(features, fresh, crt(), batches, args.warm_tfe * WARM_UP_STEPS)

        step = cossl_step(in_chunks(fixmatch(args.tau)), student, labeller, learner, teacher, features)
        steps = len(data.unlabelled.members) // data.unlabelled.batch_size  # the unlabelled set once an epoch
        run.fit(step, predict, data, steps, student, teacher, before)


if __name__ == "__main__":
    run_main(main)
