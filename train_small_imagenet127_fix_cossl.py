"""Co-learn (CoSSL) on a network that train_small_imagenet127_fix.py has pre-trained with FixMatch.

    python train_small_imagenet127_fix_cossl.py --img_size 32 --data_root PREPARED \
        --epoch 100 --val-iteration 500 --resume DIR/checkpoint_401.pth.tar --out DIR2 \
        --max_lam 0.6 --manualSeed 1 --gpu 0
"""

from utils.start import run_main

from pathlib import Path

import torch
from torch import Tensor, nn

from dataset.small_imagenet127 import open_small_imagenet
from methods.averaged import Averaged, adam
from methods.classifier import crt, head_adam, tfe
from methods.fixmatch import fixmatch
from methods.step import cossl_step
from methods.warmup import warm_up_on_batches
from models.resnet import ResNet50
from training.run import open_run
from training.speed import accelerate
from training.stage1 import stage1_arguments
from utils.args import recipe_args
from utils.flags import RUN, SMALL_IMAGENET
from utils.method_flags import COSSL, FIXMATCH


def main() -> None:
    flags = RUN, SMALL_IMAGENET, COSSL, FIXMATCH
    args = recipe_args(Path(__file__), __doc__, *flags, stage1=stage1_arguments, epochs=400)
    with open_run(args) as run:
        stage1 = run.pretrained(args.resume)
        method = fixmatch(args.tau)
        data = open_small_imagenet(args, method.views, run.device)

        # Representation: FixMatch trains the network, a momentum encoder follows it.
        torch.manual_seed(args.manualSeed)
        network = ResNet50(len(data.classes), args.width).to(run.device)
        optimizer = adam(network.parameters(), args.lr, weight_decay=0.02 * args.lr)
        student = accelerate(Averaged(network, optimizer, args.ema_decay), args)
        student.load(stage1)
        features = student.ema.features

        # Classifier: a linear head learns on class-balanced, frozen features of the momentum encoder.
        head = nn.Linear(network.output.in_features, len(data.classes)).to(run.device)
        teacher = Averaged(head, head_adam(head, args.lr_tfe, args.wd_tfe), args.ema_decay)
        learner = tfe(data.counts, args.max_lam, run.device) if args.classifier == "tfe" else crt()

        # Pseudo-labels: by the live head on the momentum encoder. Evaluated: the head's average on it.
        def labeller(images: Tensor) -> Tensor:
            return teacher.live(features(images))

        def predict(images: Tensor) -> Tensor:
            return teacher.ema(features(images))

        def before() -> None:
            fresh, steps = teacher.using(head_adam(head, args.lr_tfe, args.wd_tfe)), args.warm_tfe * args.val_iteration
            batches = data.batches(("balanced", "partners"), learner.draw, name="warm-up")
            warm_up_on_batches(features, fresh, learner, batches, steps)

        step = cossl_step(method, student, labeller, learner, teacher, features)
        run.fit(step, predict, data, args.val_iteration, student, teacher, before)


if __name__ == "__main__":
    run_main(main)
