"""Flags of methods: what a recipe takes besides its data and its run."""

from utils.args import PLACE, WARN, flag, ignored, switch
from utils.flag_types import (
    non_negative_float,
    non_negative_int,
    path,
    path_or_none,
    positive_float,
    positive_int,
    sensible_float,
    share,
    strength,
)

# The learning rate of Food-101's pre-training: linear warm-up, then steps.
SCHEDULE = (
    flag("--gamma", positive_float, 0.1, "factor on the learning rate every DECAY_EPOCHS epochs"),
    flag("--warmup_epochs", non_negative_int, 5, "epochs over which the learning rate grows from 0"),
    flag("--decay_epochs", positive_int, 30, "epochs between two steps of the learning rate"),
)
_CONTINUE = "checkpoint of this run to continue from; by itself, a run continues from the last one in --out"
PRETRAIN = (flag("--resume", path_or_none, None, _CONTINUE, role=PLACE),)
FIXMATCH = (flag("--tau", share, 0.95, "confidence from which on a pseudo-label is used", stages=WARN),)
_LAMBDA_U = "weight of the unlabelled loss (not used by train_cifar_mix_cossl, as published: there it is 1)"
MIXING = (
    flag("--mix_alpha", sensible_float, 0.75, "MixUp: lambda ~ Beta(mix_alpha, mix_alpha)", stages=WARN),
    flag("--T", sensible_float, 0.5, "temperature that sharpens the guessed labels", stages=WARN),
    flag("--lambda-u", non_negative_float, 75, _LAMBDA_U),
)
REMIXMATCH = (
    *MIXING,
    flag("--w_rot", non_negative_float, 0.5, "weight of the rotation loss", stages=WARN),
    flag("--w_ent", non_negative_float, 0.5, "weight of the strong view's loss on the guessed label", stages=WARN),
    switch("--align", "align the guesses with the labelled class distribution", stages=WARN),
)
CREST = (
    flag("--num_generation", positive_int, 6, "generations of self-training"),
    flag("--dalign_t", share, 0.5, "temperature of the last generation's distribution alignment; the first one's is 1"),
    flag("--crest_alpha", positive_float, 3, "the larger, the more images of frequent classes join the labelled ones"),
    ignored("--no_scheduler", nargs=0),
)
_CLASSIFIER = "how the balanced head learns after its warm-up: TFE, or cRT, which blends nothing"
_STAGE1 = "pre-training checkpoint that co-learning starts from; read when a run begins"
COSSL = (
    flag("--resume", path, None, _STAGE1, role=PLACE, required=True),
    flag("--classifier", str, "tfe", _CLASSIFIER, choices=("tfe", "crt")),
    flag("--max_lam", share, 0.8, "TFE: smallest share of the tail feature in a blend"),
    flag("--lr_tfe", positive_float, 0.002, "learning rate of the balanced head (short schedule, from scratch: 0.02)"),
    flag("--wd_tfe", non_negative_float, 5e-4, "weight decay of the balanced head's weight"),
    flag("--warm_tfe", positive_int, 10, "epochs of the balanced head's warm-up"),
)
_HEADS = _CLASSIFIER + "; ABC, cRT that learns from unlabelled images, too; or CAA, noise for blends"
_ALSO = flag("--classifier", str, "tfe", _HEADS, choices=("tfe", "crt", "abc", "caa"))
CIFAR_COSSL = tuple(_ALSO if one.name == "classifier" else one for one in COSSL)
_WARM_PRIOR = "epochs before the estimated class distribution of the unlabelled images is relied on"
_LABELS = "who makes the pseudo-labels: the average, or as published the live network in train mode"
LABELS_BY = flag("--labels_by", str, "ema", _LABELS, choices=("ema", "live"))
PRIOR = (flag("--warm_prior", non_negative_int, 4, _WARM_PRIOR),)
_PRESET = "offsets of the logits: logit adjustment by the labelled classes, SimPro, or ADELLO (docs/field.md)"
_PUBLISHED = "SimPro: estimate by sure guesses alone, every 500 steps, as its published code does"
OFFSETS = (
    flag("--preset", str, "simpro", _PRESET, choices=("la", "simpro", "adello")),
    flag("--strength", non_negative_float, 1.0, "LA, SimPro: factor on the offsets"),
    switch("--published_prior", _PUBLISHED),
    LABELS_BY,
    *PRIOR,
)
_KEEP = "how often unlabelled images of a class count: by the labelled counts, as published, or by the estimated ones"
ABC = (flag("--keep", str, "prior", _KEEP, choices=("published", "prior")), LABELS_BY, *PRIOR)
_FULL = "adjust the standard head's guesses in full, whatever the unlabelled images' distribution seems to be"
ACR = (switch("--full_adjustment", _FULL), LABELS_BY, *PRIOR)
_FROM = "share of the run from which on the bias is taken away (published: epoch 100 of 500)"
CDMAD = (flag("--debias_from", share, 0.2, _FROM), LABELS_BY)
_KAPPA = "factor on the log prior that is added to the pseudo-labels' logits; fit: learned from the labelled images"
_LAM_H = "weight of the head's loss on unlabelled images that it is sure of; 0: none"
PRIOR_COSSL = (
    flag("--kappa", strength, 0.0, _KAPPA, metavar="KAPPA|fit"),
    flag("--lam_h", non_negative_float, 0.0, _LAM_H),
    switch("--plain_student", "train the network by FixMatch's own losses, without offsets"),
    *PRIOR,
)
_FEATURES = "vectors of any origin, (N, D), in place of pixels; in the order labelled, unlabelled, test images"
FLOOR = (flag("--features", path, None, _FEATURES, metavar="FILE.npy"),)
OF_METHODS = (
    SCHEDULE,
    PRETRAIN,
    FIXMATCH,
    REMIXMATCH,
    CREST,
    OFFSETS,
    ABC,
    ACR,
    CDMAD,
    COSSL,
    CIFAR_COSSL,
    PRIOR_COSSL,
    FLOOR,
)
