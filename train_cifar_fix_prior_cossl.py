"""Co-learn (CoSSL) with an estimate of the unlabelled images' class distribution, after train_cifar_fix_prior.py.

    python train_cifar_fix_prior_cossl.py --ratio 2 --num_max 1500 --imb_ratio_l 100 --imb_ratio_u -100 \
        --epochs 100 --val-iteration 500 --resume DIR/checkpoint_401.pth.tar --out DIR2 \
        --max_lam 0.6 --manualSeed 1 --gpu 0

It differs from train_cifar_fix_cossl.py in three parts, each with a flag: --plain_student, --kappa and --lam_h. The
last two are off by default, for they were found to gain nothing (docs/field.md).
"""

from utils.start import run_main

from pathlib import Path

import torch
from torch import Tensor, nn

from dataset.image_loader import open_loader
from dataset.streams import open_data
from methods.averaged import Averaged, adam, load_states
from methods.balanced import kept_by_prior, with_unlabelled
from methods.classifier import head_adam
from methods.fixmatch import VIEWS, fixmatch
from methods.learners import named_learner
from methods.offsets import of_all_images, watched
from methods.prior import class_prior, with_prior
from methods.step import cossl_step
from methods.strength import FittedStrength, fitting
from methods.warmup import warm_up
from models.build import build_network, learning_parameters
from training.run import open_run
from training.speed import accelerate
from training.stage1 import stage1_arguments
from utils.args import recipe_args
from utils.flags import CIFAR, RUN
from utils.method_flags import COSSL, FIXMATCH, PRIOR_COSSL


def main() -> None:
    groups = RUN, CIFAR, COSSL, FIXMATCH, PRIOR_COSSL
    args = recipe_args(Path(__file__), __doc__, *groups, stage1=stage1_arguments, epochs=400)
    with open_run(args) as run, open_loader(args, run.device) as loader:
        stage1 = run.pretrained(args.resume)
        data = open_data(args, VIEWS, loader=loader)
        prior = class_prior(data, run.device, args.warm_prior * args.val_iteration)
        kappa = FittedStrength(1.0 if args.kappa == "fit" else args.kappa, run.device)

        # Representation: FixMatch trains the network, whose logits are offset by the shares among all images.
        torch.manual_seed(args.manualSeed)
        network = build_network(args, len(data.classes)).to(run.device)
        optimizer = adam(learning_parameters(network, args), args.lr, weight_decay=0.02 * args.lr)
        student = accelerate(Averaged(network, optimizer, args.ema_decay), args)
        student.load(stage1)
        load_states({"class_prior": prior} if "class_prior" in stage1 else {}, stage1)
        prior.gathered.zero_()  # what an update of `--published_prior` was still waiting for
        features, offsets = student.ema.features, None if args.plain_student else of_all_images(prior, 1.0)
        method = watched(fixmatch(args.tau, offsets), prior, {"kappa": kappa})._replace(name="FixMatch+prior")

        # Classifier: a linear head on class-balanced, frozen features, and on unlabelled images that it is sure of.
        head = nn.Linear(network.output.in_features, len(data.classes)).to(run.device)
        teacher = Averaged(head, head_adam(head, args.lr, args.wd_tfe), args.ema_decay)
        learner = named_learner(args, data.counts, head.in_features, run.device)
        learner = with_unlabelled(learner, kept_by_prior(prior), args.tau, args.lam_h) if args.lam_h else learner
        learner = fitting(learner, kappa, prior) if args.kappa == "fit" else learner

        # Pseudo-labels: by the live head on the momentum encoder, plus kappa log prior. Evaluated: the head's average.
        labeller = with_prior(lambda images: teacher.live(features(images)), prior, kappa.value)

        def predict(images: Tensor) -> Tensor:
            return teacher.ema(features(images))

        def before() -> None:
            fresh, steps = teacher.using(head_adam(head, args.lr_tfe, args.wd_tfe)), args.warm_tfe * args.val_iteration
            warm_up(features, fresh, data, ("weak", "strong"), steps, args.batch_size, args.manualSeed)

        step = cossl_step(method, student, labeller, learner, teacher, features)
        run.fit(step, predict, data, args.val_iteration, student, teacher, before)


if __name__ == "__main__":
    run_main(main)
