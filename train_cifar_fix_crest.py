"""Self-train with CReST+ and FixMatch on long-tailed CIFAR-10, CIFAR-100, Fashion-MNIST or digits: a baseline.

    python train_cifar_fix_crest.py --ratio 2 --num_max 1500 --imb_ratio_l 150 --imb_ratio_u 150 \
        --epochs 64 --val-iteration 1024 --out DIR --manualSeed 1 --gpu 0

Each generation is a run in DIR/generation_N. The last one is the result.
"""

from utils.start import run_main

from functools import partial
from pathlib import Path

import torch

from dataset.image_loader import open_loader
from dataset.self_training import Joined, class_frequencies
from dataset.streams import open_data
from methods.averaged import Averaged, adam
from methods.crest import Picked, aligned, crest, flattened, pick, picking_rates
from methods.fixmatch import VIEWS, fixmatch
from methods.remixmatch import RunningMean
from methods.step import ssl_step
from methods.warmup import warm_up_output
from models.build import build_network, learning_parameters, shrink_of
from training.generations import generations
from training.run import open_run
from training.speed import accelerate
from utils.args import recipe_args
from utils.flags import CIFAR, RUN
from utils.method_flags import CREST, FIXMATCH, PRETRAIN
from utils.seeding import fold_in


def main() -> None:
    flags = RUN, CIFAR, PRETRAIN, FIXMATCH, CREST
    args, picked = recipe_args(Path(__file__), __doc__, *flags, epochs=64, val_iteration=1024), Picked()
    for one in generations(args):
        with open_run(one) as run, open_loader(one, run.device) as loader:
            # Images that the generation before was surest of join the labelled ones. A resumed run has them.
            picked = Picked(**run.start.get("picked", {})) if run.start else picked
            seed = fold_in(args.manualSeed, "generation", one.generation)
            joined = Joined(picked.images.numpy(), picked.labels.numpy(), seed)
            data = open_data(args, VIEWS, loader=loader, joined=joined)

            generation, classes = (one.generation, args.num_generation), len(data.classes)
            target = flattened(torch.from_numpy(data.counts), *generation, args.dalign_t).to(run.device)
            mean = RunningMean(classes).to(run.device)
            method = crest(fixmatch(args.tau), *generation, picked, mean)

            torch.manual_seed(seed)
            network = build_network(args, classes, run.start is None).to(run.device)
            optimizer = adam(learning_parameters(network, args), args.lr)
            student = accelerate(Averaged(network, optimizer, args.ema_decay, shrink=shrink_of(args)), args)

            # The live network labels for itself, in train mode; its guesses are aligned. Its average is evaluated.
            step = ssl_step(method, student, labeller=aligned(student.live, mean, target))
            before = partial(warm_up_output, student.ema.features, student, data, args.lr) if args.weights else None
            run.fit(step, student.ema, data, args.val_iteration, student, before=before)

            if one.generation + 1 < args.num_generation:
                frequencies = class_frequencies(args.dataset, args.imb_ratio_l, data.counts)
                rates = picking_rates(frequencies, args.crest_alpha)
                picked = pick(student.ema, data, rates)


if __name__ == "__main__":
    run_main(main)
