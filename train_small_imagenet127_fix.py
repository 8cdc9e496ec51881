"""Pre-train FixMatch on Small-ImageNet-127, as prepare_small_imagenet_127.py leaves it.

    python train_small_imagenet127_fix.py --img_size 32 --data_root PREPARED \
        --epoch 500 --val-iteration 500 --out DIR --manualSeed 1 --gpu 0

Afterwards, train_small_imagenet127_fix_cossl.py co-learns from DIR/checkpoint_401.pth.tar.
"""

import torch

from dataset.long_tail import labelled_share
from dataset.small_imagenet127 import load_small_imagenet127
from dataset.streams import PRETRAINING, Sampling, streams
from methods.averaged import STUDENT, Averaged
from methods.fixmatch import fixmatch
from methods.pretrain import pretrain
from models.resnet import ResNet50
from training.loop import fit
from training.resume import resumed
from training.speed import accelerate
from utils.args import add_fixmatch_flags, add_pretrain_flags, add_small_imagenet_flags, common_parser, pick_device
from utils.main import run_main
from utils.metrics import evaluate


def main() -> None:
    parser = common_parser("train_small_imagenet127_fix", "Pre-train FixMatch on Small-ImageNet-127.", epochs=500)
    add_small_imagenet_flags(parser)
    add_pretrain_flags(parser)
    add_fixmatch_flags(parser, tau=0.95)
    args = parser.parse_args()

    start = resumed(args, STUDENT)
    device = pick_device(args.gpu)
    method = fixmatch(args.tau)
    images = load_small_imagenet127(args.data_root, args.img_size)
    split = labelled_share(images, args.labeled_percent, args.manualSeed)
    sampling = Sampling(args.batch_size, args.manualSeed, args.mu, learner_view="weak")
    data = streams(images, split, method.views, sampling, device)
    print(data.table())

    torch.manual_seed(args.manualSeed)
    network = ResNet50(len(data.classes), args.width).to(device)
    optimizer = torch.optim.Adam(network.parameters(), args.lr, fused=device.type == "cuda")
    student = accelerate(Averaged(network, optimizer, args.ema_decay, shrink=0.02 * args.lr), args)

    step, predict = pretrain(method, student)
    objects = student.objects(STUDENT)
    facts = {"method": "FixMatch", "start_epoch": 0} | data.facts()
    scores = lambda: evaluate(predict, data.test(), data.counts)
    fit(step, data.batches(PRETRAINING, method.draw), scores, objects, args, facts, start)


if __name__ == "__main__":
    run_main(main)
