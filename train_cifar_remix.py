"""Pre-train ReMixMatch on long-tailed CIFAR-10, CIFAR-100, Fashion-MNIST or digits.

    python train_cifar_remix.py --ratio 2 --num_max 1500 --imb_ratio_l 150 --imb_ratio_u 150 --align \
        --epoch 500 --val-iteration 500 --out DIR --manualSeed 1 --gpu 0

Afterwards, train_cifar_remix_cossl.py co-learns from DIR/checkpoint_401.pth.tar.
"""

import torch

import dataset
from dataset.streams import PRETRAINING, open_data
from methods.averaged import STUDENT, Averaged
from methods.pretrain import pretrain
from methods.ramp import linear_rampup
from methods.remixmatch import VIEWS, RunningMean, remixmatch
from models.wrn import WideResNet
from training.loop import fit
from training.resume import resumed
from training.speed import accelerate
from utils.args import (
    add_cifar_flags,
    add_mixing_flags,
    add_pretrain_flags,
    add_remixmatch_flags,
    common_parser,
    pick_device,
)
from utils.main import run_main
from utils.metrics import evaluate


def main() -> None:
    parser = common_parser("train_cifar_remix", "Pre-train ReMixMatch on long-tailed data.", epochs=500)
    add_cifar_flags(parser, dataset.NAMES)
    add_pretrain_flags(parser)
    add_mixing_flags(parser, lambda_u=1.5)
    add_remixmatch_flags(parser)
    args = parser.parse_args()

    start = resumed(args, (*STUDENT, "emp_distb_u"))
    device = pick_device(args.gpu)
    data = open_data(args, VIEWS, include_labelled=False, device=device)

    torch.manual_seed(args.manualSeed)
    network = WideResNet(len(data.classes), args.depth, args.width).to(device)
    optimizer = torch.optim.Adam(network.parameters(), args.lr, fused=device.type == "cuda")
    student = accelerate(Averaged(network, optimizer, args.ema_decay, shrink=0.02 * args.lr), args)

    ramp = lambda t: linear_rampup(t / args.val_iteration, args.epochs)
    counts = torch.from_numpy(data.counts).to(device)
    guesses = RunningMean(len(data.classes)).to(device)
    method = remixmatch(
        args.T,
        args.mix_alpha,
        lambda_u=lambda t: args.lambda_u * ramp(t),
        w_rot=args.w_rot,
        w_ent=lambda t: args.w_ent * ramp(t),
        running_mean=guesses,
        target=counts / counts.sum() if args.align else None,
    )
    step, predict = pretrain(method, student)
    objects = student.objects(STUDENT) | {"emp_distb_u": guesses}
    facts = {"method": "ReMixMatch", "start_epoch": 0} | data.facts()
    scores = lambda: evaluate(predict, data.test(), data.counts)
    fit(step, data.batches(PRETRAINING, method.draw), scores, objects, args, facts, start)


if __name__ == "__main__":
    run_main(main)
