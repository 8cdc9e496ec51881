"""Co-learn (CoSSL) on a network that train_food_fix.py has pre-trained with FixMatch.

    python train_food_fix_cossl.py --ratio 2 --num_max 250 --imb_ratio_l 50 --imb_ratio_u 50 \
        --epoch 200 --tau 0.90 --resume DIR/checkpoint_801.pth.tar --out DIR2 --max_lam 0.6 --manualSeed 1 --gpu 0
"""

from copy import deepcopy
from functools import partial

import torch

from dataset.crops import resized
from dataset.files import file_streams
from dataset.food101 import load_food101
from dataset.image_loader import ImageLoader
from dataset.long_tail import long_tailed
from dataset.streams import CO_LEARNING, Sampling
from methods.averaged import STUDENT, TEACHER, Averaged
from methods.chunks import in_chunks
from methods.classifier import crt, decay_all_but_bias, tfe
from methods.cossl import cossl
from methods.fixmatch import VIEWS, fixmatch
from methods.warmup import warm_up_on_batches
from models.torchvision_resnet import TorchvisionResNet
from training.loop import fit
from training.resume import FREE, continued, pretrained, restore, same_classes
from training.speed import accelerate
from utils.args import add_cossl_flags, add_fixmatch_flags, add_food_flags, common_parser, pick_device
from utils.main import run_main
from utils.metrics import evaluate

WARM_UP_STEPS, WARM_UP_DECAY = 50, 0.99  # per epoch of the head's warm-up; share of its average kept per step


def main() -> None:
    about = "Co-learn (CoSSL) with FixMatch on Food-101-LT. --lr is the head's; the network's is the checkpoint's."
    parser = common_parser("train_food_fix_cossl", about, epochs=20, steps=None)
    add_food_flags(parser, ema_decay=0.9)
    add_cossl_flags(parser)
    parser.set_defaults(max_lam=0.6, lr_tfe=0.04, warm_tfe=5)
    add_fixmatch_flags(parser, tau=0.95)
    args = parser.parse_args()

    images = load_food101(args.data_root)
    split = long_tailed(images, args, include_labelled=True)
    args.val_iteration = len(split.unlabelled) // (args.mu * args.batch_size)  # the unlabelled set once an epoch
    start = continued(args, STUDENT + TEACHER, FREE - {"resume"})
    stage1 = pretrained(args, STUDENT)
    device = pick_device(args.gpu)
    loader = ImageLoader(args.img_size, args.manualSeed, args.workers, args.skip_corrupt, device)
    wanted = VIEWS | {"unlabelled": ("weak", "strong")}  # one strong view, as published
    data = file_streams(images, split, wanted, Sampling(args.batch_size, args.manualSeed, args.mu), loader)
    print(data.table())
    same_classes(stage1, data.facts(), args.resume)

    torch.manual_seed(args.manualSeed)
    sgd = partial(torch.optim.SGD, momentum=0.9, nesterov=True)
    network = TorchvisionResNet(len(data.classes), args.depth).to(device)
    optimizer = sgd(network.parameters(), args.lr, weight_decay=args.wd)
    student = accelerate(Averaged(network, optimizer, args.ema_decay), args)
    restore(student.objects(STUDENT), stage1, args.resume)
    for group in optimizer.param_groups:  # where pre-training's schedule was (published code)
        group["lr"] = stage1["optimizer"]["param_groups"][0]["lr"]

    head = deepcopy(student.ema.output).requires_grad_()  # not a fresh one: it has learnt in pre-training
    teacher = Averaged(head, sgd(decay_all_but_bias(head, args.wd_tfe), args.lr), args.ema_decay)
    counts = torch.from_numpy(data.counts).to(device)
    learner = tfe(counts, args.max_lam) if args.classifier == "tfe" else crt()
    warm_up = sgd(decay_all_but_bias(head, args.wd_tfe), args.lr_tfe)
    prepare = partial(
        warm_up_on_batches,
        student.ema.features,
        teacher.using(warm_up, WARM_UP_DECAY),
        crt(),
        data.batches(("balanced",), name="warm-up"),
        steps=args.warm_tfe * WARM_UP_STEPS,
    )

    method = in_chunks(fixmatch(args.tau))
    step, predict = cossl(method, learner, student, teacher)
    objects = student.objects(STUDENT) | teacher.objects(TEACHER)
    facts = {"method": "FixMatch+CoSSL", "start_epoch": stage1["epoch"], "resize": resized(args.img_size)}
    facts |= data.facts()
    scores = lambda: evaluate(predict, data.test(), data.counts)
    with loader.running():
        batches = data.batches(CO_LEARNING, method.draw, learner.draw)
        fit(step, batches, scores, objects, args, facts, start, prepare, args.copy_every + 1, watch=loader.figures)


if __name__ == "__main__":
    run_main(main)
