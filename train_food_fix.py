"""Pre-train FixMatch on Food-101-LT.

    python train_food_fix.py --ratio 2 --num_max 250 --imb_ratio_l 50 --imb_ratio_u 50 \
        --epoch 1000 --decay_epochs 9000 --out DIR --manualSeed 1 --gpu 0

Afterwards, train_food_fix_cossl.py co-learns from DIR/checkpoint_801.pth.tar.
"""

from functools import partial

import torch

from dataset.crops import resized
from dataset.files import file_streams
from dataset.food101 import load_food101
from dataset.image_loader import ImageLoader
from dataset.long_tail import long_tailed
from dataset.streams import PRETRAINING, Sampling
from methods.averaged import STUDENT, Averaged
from methods.chunks import in_chunks
from methods.fixmatch import VIEWS, fixmatch
from methods.learning_rate import draw_rates, scheduled, warm_up_then_steps
from methods.pretrain import pretrain
from models.torchvision_resnet import TorchvisionResNet
from training.loop import fit
from training.resume import resumed
from training.speed import accelerate
from utils.args import (
    add_fixmatch_flags,
    add_food_flags,
    add_pretrain_flags,
    add_schedule_flags,
    common_parser,
    pick_device,
)
from utils.main import run_main
from utils.metrics import evaluate


def main() -> None:
    parser = common_parser("train_food_fix", "Pre-train FixMatch on Food-101-LT.", epochs=90, steps=None)
    add_food_flags(parser, ema_decay=0.999)
    add_schedule_flags(parser)
    add_pretrain_flags(parser)
    add_fixmatch_flags(parser, tau=0.9)
    args = parser.parse_args()

    images = load_food101(args.data_root)
    split = long_tailed(images, args, include_labelled=True)
    args.val_iteration = len(split.unlabelled) // (args.mu * args.batch_size)  # the unlabelled set once an epoch
    start = resumed(args, STUDENT)
    device = pick_device(args.gpu)
    loader = ImageLoader(args.img_size, args.manualSeed, args.workers, args.skip_corrupt, device)
    wanted = VIEWS | {"unlabelled": ("weak", "strong")}  # one strong view, as published
    data = file_streams(images, split, wanted, Sampling(args.batch_size, args.manualSeed, args.mu), loader)
    print(data.table())

    torch.manual_seed(args.manualSeed)
    network = TorchvisionResNet(len(data.classes), args.depth).to(device)
    optimizer = torch.optim.SGD(network.parameters(), args.lr, momentum=0.9, weight_decay=args.wd, nesterov=True)
    student = accelerate(Averaged(network, optimizer, args.ema_decay), args)

    method = in_chunks(fixmatch(args.tau))
    step, predict = pretrain(method, student)
    warm_up, every = (epochs * args.val_iteration for epochs in (args.warmup_epochs, args.decay_epochs))
    rate = partial(warm_up_then_steps, lr=args.lr, gamma=args.gamma, warm_up=warm_up, every=every)
    objects = student.objects(STUDENT)
    facts = {"method": "FixMatch", "start_epoch": 0, "resize": resized(args.img_size)} | data.facts()
    scores = lambda: evaluate(predict, data.test(), data.counts)
    with loader.running():
        batches = data.batches(PRETRAINING, method.draw, draw_rates(rate))
        fit(scheduled(step, optimizer), batches, scores, objects, args, facts, start, watch=loader.figures)


if __name__ == "__main__":
    run_main(main)
