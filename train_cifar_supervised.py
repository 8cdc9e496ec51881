"""Train on labelled images alone, the baseline: long-tailed CIFAR-10, CIFAR-100, Fashion-MNIST or digits.

    python train_cifar_supervised.py --ratio 2 --num_max 1500 --imb_ratio_l 150 --imb_ratio_u 150 \
        --epoch 500 --val-iteration 500 --out DIR --manualSeed 1 --gpu 0

Any train_cifar_*_cossl.py can co-learn from its checkpoints, too.
"""

import torch

import dataset
from dataset.streams import PRETRAINING, open_data
from methods.averaged import STUDENT, Averaged
from methods.pretrain import pretrain
from methods.supervised import supervised
from models.wrn import WideResNet
from training.loop import fit
from training.resume import resumed
from training.speed import accelerate
from utils.args import add_cifar_flags, add_pretrain_flags, common_parser, pick_device
from utils.main import run_main
from utils.metrics import evaluate


def main() -> None:
    about = "Train on the labelled images of long-tailed data alone."
    parser = common_parser("train_cifar_supervised", about, epochs=500)
    add_cifar_flags(parser, dataset.NAMES)
    add_pretrain_flags(parser)
    args = parser.parse_args()

    start = resumed(args, STUDENT)
    device = pick_device(args.gpu)
    method = supervised()
    data = open_data(args, method.views, include_labelled=True, device=device)

    torch.manual_seed(args.manualSeed)
    network = WideResNet(len(data.classes), args.depth, args.width).to(device)
    optimizer = torch.optim.Adam(network.parameters(), args.lr, fused=device.type == "cuda")
    student = accelerate(Averaged(network, optimizer, args.ema_decay, shrink=0.02 * args.lr), args)

    step, predict = pretrain(method, student)
    objects = student.objects(STUDENT)
    facts = {"method": "supervised", "start_epoch": 0} | data.facts()
    scores = lambda: evaluate(predict, data.test(), data.counts)
    fit(step, data.batches(PRETRAINING, method.draw), scores, objects, args, facts, start)


if __name__ == "__main__":
    run_main(main)
