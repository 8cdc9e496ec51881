"""Co-learn (CoSSL) on a network that train_small_imagenet127_fix.py has pre-trained with FixMatch.

    python train_small_imagenet127_fix_cossl.py --img_size 32 --data_root PREPARED \
        --epoch 100 --val-iteration 500 --resume DIR/checkpoint_401.pth.tar --out DIR2 \
        --max_lam 0.6 --manualSeed 1 --gpu 0
"""

from functools import partial

import torch

from dataset.long_tail import labelled_share
from dataset.small_imagenet127 import load_small_imagenet127
from dataset.streams import CO_LEARNING, Sampling, streams
from methods.averaged import STUDENT, TEACHER, Averaged
from methods.classifier import crt, decay_all_but_bias, tfe
from methods.cossl import cossl
from methods.fixmatch import fixmatch
from methods.warmup import warm_up_on_batches
from models.resnet import ResNet50
from training.loop import fit
from training.resume import FREE, continued, pretrained, restore, same_classes
from training.speed import accelerate
from utils.args import add_cossl_flags, add_fixmatch_flags, add_small_imagenet_flags, common_parser, pick_device
from utils.main import run_main
from utils.metrics import evaluate


def main() -> None:
    about = "Co-learn (CoSSL) with FixMatch on Small-ImageNet-127."
    parser = common_parser("train_small_imagenet127_fix_cossl", about, epochs=400)
    add_small_imagenet_flags(parser)
    add_cossl_flags(parser)
    add_fixmatch_flags(parser, tau=0.95)
    args = parser.parse_args()

    start = continued(args, STUDENT + TEACHER, FREE - {"resume"})
    stage1 = pretrained(args, STUDENT)
    device = pick_device(args.gpu)
    method = fixmatch(args.tau)
    images = load_small_imagenet127(args.data_root, args.img_size)
    split = labelled_share(images, args.labeled_percent, args.manualSeed)
    sampling = Sampling(args.batch_size, args.manualSeed, args.mu, learner_view="weak")
    data = streams(images, split, method.views, sampling, device)
    print(data.table())
    same_classes(stage1, data.facts(), args.resume)

    torch.manual_seed(args.manualSeed)
    adam = partial(torch.optim.Adam, fused=device.type == "cuda")
    network = ResNet50(len(data.classes), args.width).to(device)
    optimizer = adam(network.parameters(), args.lr, weight_decay=0.02 * args.lr)
    student = accelerate(Averaged(network, optimizer, args.ema_decay), args)
    restore(student.objects(STUDENT), stage1, args.resume)

    head = torch.nn.Linear(network.output.in_features, len(data.classes)).to(device)
    groups = partial(decay_all_but_bias, head, args.wd_tfe)
    # As published: FixMatch's script trains the head with --lr, and takes --lr_tfe for the warm-up only.
    teacher = Averaged(head, adam(groups(), args.lr), args.ema_decay)
    counts = torch.from_numpy(data.counts).to(device)
    learner = tfe(counts, args.max_lam) if args.classifier == "tfe" else crt()
    prepare = partial(
        warm_up_on_batches,
        student.ema.features,
        teacher.using(adam(groups(), args.lr_tfe)),
        learner,
        data.batches(("balanced", "partners"), learner.draw, name="warm-up"),
        steps=args.warm_tfe * args.val_iteration,
    )

    step, predict = cossl(method, learner, student, teacher)
    objects = student.objects(STUDENT) | teacher.objects(TEACHER)
    facts = {"method": "FixMatch+CoSSL", "start_epoch": stage1["epoch"]} | data.facts()
    scores = lambda: evaluate(predict, data.test(), data.counts)
    batches = data.batches(CO_LEARNING, method.draw, learner.draw)
    fit(step, batches, scores, objects, args, facts, start, prepare, first_copy=args.copy_every + 1)


if __name__ == "__main__":
    run_main(main)
