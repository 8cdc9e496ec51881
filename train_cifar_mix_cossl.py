"""Co-learn (CoSSL) on a network that train_cifar_mix.py has pre-trained with MixMatch.

    python train_cifar_mix_cossl.py --ratio 2 --num_max 1500 --imb_ratio_l 150 --imb_ratio_u 150 \
        --epoch 100 --val-iteration 500 --resume DIR/checkpoint_401.pth.tar --out DIR2 \
        --max_lam 0.6 --manualSeed 1 --gpu 0
"""

from functools import partial

import torch

import dataset
from dataset.streams import CO_LEARNING, open_data
from methods.averaged import STUDENT, TEACHER, Averaged
from methods.classifier import crt, decay_all_but_bias, tfe
from methods.cossl import cossl
from methods.mixmatch import mixmatch
from methods.warmup import warm_up
from models.wrn import WideResNet
from training.loop import fit
from training.resume import FREE, continued, pretrained, restore, same_classes
from training.speed import accelerate
from utils.args import add_cifar_flags, add_cossl_flags, add_mixing_flags, common_parser, pick_device
from utils.main import run_main
from utils.metrics import evaluate


def main() -> None:
    about = "Co-learn (CoSSL) with MixMatch on long-tailed data."
    parser = common_parser("train_cifar_mix_cossl", about, epochs=400)
    add_cifar_flags(parser, dataset.NAMES)
    add_cossl_flags(parser)
    add_mixing_flags(parser, lambda_u=75, about="not used, as published: the unlabelled loss has weight 1")
    args = parser.parse_args()

    start = continued(args, STUDENT + TEACHER, FREE - {"resume"} | {"lambda_u"})
    stage1 = pretrained(args, STUDENT)
    device = pick_device(args.gpu)
    method = mixmatch(args.T, args.mix_alpha, lambda_u=lambda t: 1.0)
    data = open_data(args, method.views, include_labelled=False, device=device)
    same_classes(stage1, data.facts(), args.resume)

    torch.manual_seed(args.manualSeed)
    adam = partial(torch.optim.Adam, fused=device.type == "cuda")
    network = WideResNet(len(data.classes), args.depth, args.width).to(device)
    # As published: with MixMatch both decays are on, Adam's and the shrink of pre-training.
    optimizer = adam(network.parameters(), args.lr, weight_decay=0.02 * args.lr)
    student = accelerate(Averaged(network, optimizer, args.ema_decay, shrink=0.02 * args.lr), args)
    restore(student.objects(STUDENT), stage1, args.resume)

    head = torch.nn.Linear(network.output.in_features, len(data.classes)).to(device)
    groups = partial(decay_all_but_bias, head, args.wd_tfe)
    teacher = Averaged(head, adam(groups(), args.lr_tfe), args.ema_decay)
    prepare = partial(
        warm_up,
        student.ema.features,
        teacher.using(adam(groups(), args.lr_tfe)),
        data.labelled.sweep(),
        data.unlabelled.sweep(("weak",)),
        data.counts,
        batch_size=args.batch_size,
        epochs=args.warm_tfe,
        steps=args.val_iteration,
        seed=args.manualSeed,
    )

    counts = torch.from_numpy(data.counts).to(device)
    learner = tfe(counts, args.max_lam) if args.classifier == "tfe" else crt()
    step, predict = cossl(method, learner, student, teacher)
    objects = student.objects(STUDENT) | teacher.objects(TEACHER)
    facts = {"method": "MixMatch+CoSSL", "start_epoch": stage1["epoch"]} | data.facts()
    scores = lambda: evaluate(predict, data.test(), data.counts)
    batches = data.batches(CO_LEARNING, method.draw, learner.draw)
    fit(step, batches, scores, objects, args, facts, start, prepare, first_copy=args.copy_every + 1)


if __name__ == "__main__":
    run_main(main)
