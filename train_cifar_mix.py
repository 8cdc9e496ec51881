"""Pre-train MixMatch on long-tailed CIFAR-10, CIFAR-100, Fashion-MNIST or digits.

    python train_cifar_mix.py --ratio 2 --num_max 1500 --imb_ratio_l 150 --imb_ratio_u 150 \
        --epoch 500 --val-iteration 500 --out DIR --manualSeed 1 --gpu 0

Afterwards, train_cifar_mix_cossl.py co-learns from DIR/checkpoint_401.pth.tar.
"""

import torch

import dataset
from dataset.streams import PRETRAINING, open_data
from methods.averaged import STUDENT, Averaged
from methods.mixmatch import mixmatch
from methods.pretrain import pretrain
from methods.ramp import linear_rampup
from models.wrn import WideResNet
from training.loop import fit
from training.resume import resumed
from training.speed import accelerate
from utils.args import add_cifar_flags, add_mixing_flags, add_pretrain_flags, common_parser, pick_device
from utils.main import run_main
from utils.metrics import evaluate


def main() -> None:
    parser = common_parser("train_cifar_mix", "Pre-train MixMatch on long-tailed data.", epochs=500)
    add_cifar_flags(parser, dataset.NAMES)
    add_pretrain_flags(parser)
    add_mixing_flags(parser, lambda_u=75)
    args = parser.parse_args()

    start = resumed(args, STUDENT)
    device = pick_device(args.gpu)
    ramp = lambda t: linear_rampup(t / args.val_iteration, args.epochs)
    method = mixmatch(args.T, args.mix_alpha, lambda_u=lambda t: args.lambda_u * ramp(t))
    data = open_data(args, method.views, include_labelled=False, device=device)

    torch.manual_seed(args.manualSeed)
    network = WideResNet(len(data.classes), args.depth, args.width).to(device)
    optimizer = torch.optim.Adam(network.parameters(), args.lr, fused=device.type == "cuda")
    student = accelerate(Averaged(network, optimizer, args.ema_decay, shrink=0.02 * args.lr), args)

    step, predict = pretrain(method, student)
    objects = student.objects(STUDENT)
    facts = {"method": "MixMatch", "start_epoch": 0} | data.facts()
    scores = lambda: evaluate(predict, data.test(), data.counts)
    fit(step, data.batches(PRETRAINING, method.draw), scores, objects, args, facts, start)


if __name__ == "__main__":
    run_main(main)
