"""Co-learn (CoSSL) on a network that train_cifar_remix.py has pre-trained with ReMixMatch.

    python train_cifar_remix_cossl.py --ratio 2 --num_max 1500 --imb_ratio_l 150 --imb_ratio_u 150 \
        --epoch 100 --val-iteration 500 --resume DIR/checkpoint_401.pth.tar --out DIR2 \
        --align --max_lam 0.6 --manualSeed 1 --gpu 0
"""

from utils.start import run_main

from pathlib import Path

import torch
from torch import Tensor, nn

from dataset.image_loader import open_loader
from dataset.streams import open_data
from methods.averaged import Averaged, adam
from methods.classifier import head_adam
from methods.learners import named_learner
from methods.remixmatch import VIEWS, RunningMean, remixmatch
from methods.step import cossl_step
from methods.warmup import warm_up
from models.build import build_network, learning_parameters
from training.run import open_run
from training.speed import accelerate
from training.stage1 import stage1_arguments
from utils.args import recipe_args
from utils.flags import CIFAR, RUN
from utils.method_flags import CIFAR_COSSL, REMIXMATCH


def main() -> None:
    flags, defaults = (RUN, CIFAR, CIFAR_COSSL, REMIXMATCH), {"epochs": 400, "lambda_u": 1.5, "unlabelled": "disjoint"}
    args = recipe_args(Path(__file__), __doc__, *flags, stage1=stage1_arguments, **defaults)
    with open_run(args) as run, open_loader(args, run.device) as loader:
        stage1 = run.pretrained(args.resume)
        data = open_data(args, VIEWS, loader=loader)
        target = torch.from_numpy(data.counts).to(run.device) if args.align else None
        weights = lambda t: args.lambda_u, args.w_rot, lambda t: args.w_ent
        mean = RunningMean(len(data.classes)).to(run.device)  # starts anew
        method = remixmatch(args.T, args.mix_alpha, *weights, mean, target)

        # Representation: ReMixMatch trains the network, a momentum encoder follows it.
        torch.manual_seed(args.manualSeed)
        network = build_network(args, len(data.classes)).to(run.device)
        optimizer = adam(learning_parameters(network, args), args.lr, weight_decay=0.02 * args.lr)
        student = accelerate(Averaged(network, optimizer, args.ema_decay), args)
        student.load(stage1)
        features = student.ema.features

        # Classifier: a linear head learns on class-balanced, frozen features of the momentum encoder.
        head = nn.Linear(network.output.in_features, len(data.classes)).to(run.device)
        teacher = Averaged(head, head_adam(head, args.lr_tfe, args.wd_tfe), args.ema_decay)
        learner = named_learner(args, data.counts, head.in_features, run.device)

        # Pseudo-labels: by the live head on the momentum encoder. Evaluated: the head's average on it.
        def labeller(images: Tensor) -> Tensor:
            return teacher.live(features(images))

        def predict(images: Tensor) -> Tensor:
            return teacher.ema(features(images))

        def before() -> None:
            fresh, steps = teacher.using(head_adam(head, args.lr_tfe, args.wd_tfe)), args.warm_tfe * args.val_iteration
            warm_up(features, fresh, data, ("weak", "strong"), steps, args.batch_size, args.manualSeed)

        step = cossl_step(method, student, labeller, learner, teacher, features)
        run.fit(step, predict, data, args.val_iteration, student, teacher, before)


if __name__ == "__main__":
    run_main(main)
