"""Your own images in one command: look at them, plan, train both stages, compare with simpler ways, show the result.

    python train_folder.py IMAGES --minutes 30

It chooses network, image size, batch size and lengths by the images and this machine, and says why; every flag of the
training scripts overrides a choice. It starts these scripts, and prints their commands. After an interruption the same
command goes on. --out gets a folder of each run, report/report.html, predictions.csv and gallery.html.
"""

from utils.start import run_main

import csv
import hashlib
import shlex
import time
from argparse import SUPPRESS, Namespace
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dataset.feature_cache import files_key
from dataset.layouts import Listing, list_images
from dataset.overlap import overlaps
from dataset.parts import refuse_among_images
from methods.floors import FLOORS
from training.checkpoint import BEST, LATEST
from training.choices import CHOSEN_FROM, choose
from training.folder import SUMMARY, Lock, make_folder
from training.plan import COSTS, Lengths, Speed, decay, fixed_seconds, lengths
from training.plan_folder import PLAN, SCRIPT_OF, discard, held_by, is_finished
from training.resume import moved_weights
from training.scripts import as_flags, run_script
from utils.args import PLACE, Parser
from utils.errors import UserError
from utils.files import atomic_write_text, check_writable, read_json, sha256_of, to_json
from utils.flag_types import minutes, path, positive_int
from utils.flags import CIFAR, RUN, with_role
from utils.method_flags import FIXMATCH
from utils.text import printable, warn

PASSED = {"supervised": (*RUN, *CIFAR), "fix": (*RUN, *CIFAR, *FIXMATCH), "cossl": CHOSEN_FROM}
NOT_PASSED = {"data_root", "dataset", "out", "resume", "epochs", "val_iteration", "time_limit", "overwrite"}
NOT_PASSED |= {"start_epoch", "step"}  # that nothing reads
FLOOR_FLAGS = ("img_size", "holdout", "manualSeed", "skip_corrupt")
NETWORK_FLAGS = ("arch", "weights", "img_size", "gpu", "skip_corrupt")
PREDICT_FLAGS = ("gpu", "skip_corrupt")
TRIAL_STEPS = 20
LENGTHS = ("steps", "steps_cossl", "evaluations")  # flags


def main() -> None:
    args, began = command_line(), time.monotonic()
    check_writable(args.out)
    for folder in (args.out, *(args.out / part for part in (*SCRIPT_OF, "floor", "report"))):
        refuse_among_images(args.images, folder)
    if any(args.images.samefile(file) for file in held_by(args.out) if args.images.exists()):
        raise UserError(f"IMAGES {args.images}: results would replace it; give it another name, or take another --out")
    listing = list_images(args.images, skips_corrupt(args))
    tell(listing, bool(args.chosen.get("holdout")) or not listing.test.paths)
    plan, lock = planned(args, listing, began)
    with lock:
        if args.plan:
            return
        floor(args, plan["choices"])
        for part in plan["parts"]:
            train(args, plan, part)
        show(args, plan, listing)


def command_line() -> Namespace:
    """`chosen` among them: the flags of the training scripts that are given, by name."""
    parser = Parser(" ".join(str(__doc__).split("\n\n")[0].split()))
    add = parser.add_argument
    add("images", metavar="IMAGES", type=path, help="a folder of images, or a CSV (docs/own-images.md)")
    add("--minutes", type=minutes, default=30.0, help="time for everything on this machine")
    add("--out", type=path, default=Path("results/folder"), help="folder for the runs, the report and the gallery")
    add("--steps", type=positive_int, help="steps of stage 1; unless given, what --minutes allows")
    add("--steps_cossl", type=positive_int, help="steps of stage 2; unless given, half of those")
    add("--evaluations", type=positive_int, help="epochs of each stage; unless given, what a tenth of the time allows")
    about = "what is wanted in the end: co-learning, FixMatch, or labelled-only training"
    add("--method", choices=tuple(SCRIPT_OF), default="cossl", help=about)
    add("--no-baseline", action="store_true", help="leave out labelled-only training of the same length")
    add("--plan", action="store_true", help="print the plan and stop; the same command without this flag goes on by it")
    add("--overwrite", action="store_true", help="discard the runs that --out holds")
    passed = {one.name: one for one in PASSED["cossl"] if one.name not in NOT_PASSED}
    for one in passed.values():
        add(*one.names, **one.options | {"default": SUPPRESS})
    args = parser.parse_args()
    args.images = args.images.absolute()  # checkpoints and printed commands are read in other folders, too
    args.out = args.out.absolute() if str(args.out).startswith("-") else args.out  # ./-x is -x, a flag of the scripts
    args.chosen = {name: vars(args).pop(name) for name in passed if name in args}
    return args


def skips_corrupt(args: Namespace) -> bool:
    """As given, or as the plan in --out has it."""
    try:
        there = not args.overwrite and read_json(args.out / PLAN)["choices"].get("skip_corrupt", False)
    except (ValueError, LookupError, TypeError, AttributeError):
        there = False  # no plan, or none that `planned` takes
    return bool(args.chosen.get("skip_corrupt", there))


def tell(listing: Listing, holds_out: bool) -> None:
    """Print what was found. holds_out: whether some of the labelled images are kept apart."""
    counts = Counter(listing.labelled.labels)
    found = {"labelled": len(listing.labelled.paths), "unlabelled": len(listing.unlabelled.paths)}
    numbers = ", ".join(f"{n} {part}" for part, n in (found | {"test": len(listing.test.paths)}).items())
    print(f"found {numbers} images, of {len(listing.classes)} classes; labelled:")
    print(printable("  " + ", ".join(f"{counts[c]} {name}" for c, name in enumerate(listing.classes))))
    same = overlaps(listing, among_labelled=holds_out)
    if same["unlabelled"]:
        harm = "those held out are trained on, without their labels" if holds_out else "which does no harm"
        print(f"  {same['unlabelled']} of the unlabelled are labelled ones again, {harm}")
    if same["labelled"]:
        copies = f"{same['labelled']} of the labelled images are copies of each other"
        warn(f"{copies}: held-out figures will be too good; remove them")
    if same["both"]:
        print(
            f"  {same['both']} of the test images are unlabelled ones, too: they are trained on, without their labels"
        )
    if same["test"]:
        warn(f"{same['test']} of the test images are labelled ones: the test figures will be too good")


def planned(args: Namespace, listing: Listing, began: float) -> tuple[dict[str, Any], Lock]:
    """The plan that --out holds, or a new one; and --out, locked. Raises UserError if that plan is of another command,
    or of other images, for runs and results without a plan, and where another process is at work.
    """
    asked = all_asked(args, listing)
    file, lock = args.out / PLAN, Lock(args.out) if args.out.is_dir() else None
    if not file.exists() or args.overwrite:
        if not args.overwrite and (held := held_by(args.out)):
            problem = f"holds {held[0].relative_to(args.out)} and no {PLAN}"
            raise UserError(f"--out {args.out}: {problem}; take another folder, or --overwrite")
        plan = {"asked": asked} | new_plan(args, listing, began)
        make_folder(args.out)
        lock = lock or Lock(args.out)
        if file.exists() and not args.overwrite:
            raise UserError(f"--out {args.out}: another process has begun there meanwhile; take another folder")
        discard(args.out)
        atomic_write_text(file, to_json(plan))
        return plan, lock
    try:
        plan = read_json(file)
        then = plan["asked"]
        moved = moved_weights({"arguments": then, "facts": plan["facts"]}, asked)
        other = sorted(n for n in {*then, *asked} - moved if then.get(n) != asked.get(n))
    except (ValueError, LookupError, TypeError, AttributeError):
        raise UserError(f"{file}: not a plan; take another --out, or give --overwrite") from None
    if other:
        problem = f"{PLAN} there is of another command or of other images ({', '.join(other)} differ)"
        raise UserError(f"--out {args.out}: {problem}; take another folder, or --overwrite")
    print(f"going on by {printable(file)}:\n  {printable(shlex.join(as_flags(plan['choices'], PASSED['cossl'])))}")
    tell_lengths(plan)
    plan["choices"] |= {name: value for name, value in args.chosen.items() if name in {*with_role(PLACE), *moved}}
    return plan, lock or Lock(args.out)


def all_asked(args: Namespace, listing: Listing) -> dict[str, str]:
    """By what a plan is known: flags that decide its results, and SHA-256 of files, and of labels in their order."""
    flags = {name: str(getattr(args, name)) for name in ("method", "minutes", *LENGTHS, "no_baseline")}
    flags |= {name: str(value) for name, value in args.chosen.items() if name not in with_role(PLACE)}
    labels = hashlib.sha256(repr((listing.classes, *(part.labels for part in listing[1:]))).encode()).hexdigest()
    return flags | {"files": files_key(args.images, listing.paths), "labels": labels}


def new_plan(args: Namespace, listing: Listing, began: float) -> dict[str, Any]:
    """choices: flags of the training scripts, given or chosen here, by name; parts: the scripts in turn; steps: of each
    part; facts: by what weights are known. Prints the choices with their reasons, and a forecast.
    """
    choices, reasons = choose(args.chosen, listing)
    parts = {"supervised": [], "fix": ["fix"], "cossl": ["fix", "cossl"]}[args.method]
    if not listing.unlabelled.paths:
        parts = []
        reasons.append("labelled-only training: there are no unlabelled images")
    if not (parts and args.no_baseline):
        parts = ["supervised", *parts]
    print("plan, of which every flag can be given:\n  " + "\n  ".join(map(printable, reasons)))
    found, end = measured(args, choices, parts, listing, began)
    choices = {"ema_decay": decay(found.steps)} | choices
    weights = Path(str(choices.get("weights")))
    facts = {"weights_sha256": sha256_of(weights)} if weights.is_file() else {}
    steps = found.by_part(parts)
    plan = {"choices": choices, "parts": parts, "steps": steps, "epochs": found.epochs, "facts": facts}
    tell_lengths(plan)
    today = end.date() == datetime.now().date()
    print(f"forecast: all is done at {end.strftime('%H:%M' if today else '%Y-%m-%d %H:%M')}", flush=True)
    return plan


def tell_lengths(plan: dict[str, Any]) -> None:
    steps = ", ".join(f"{SCRIPT_OF[part]} {plan['steps'][part]} steps" for part in plan["parts"])
    print(f"  {steps}, each in {plan['epochs']} epochs")


def measured(
    args: Namespace, choices: dict[str, Any], parts: list[str], listing: Listing, began: float
) -> tuple[Lengths, datetime]:
    """The lengths that are given, or that the rest of --minutes allows by a trial; and when all is done."""
    part, start = "fix" if "fix" in parts else "supervised", time.monotonic()
    given = tuple(getattr(args, name) for name in LENGTHS)
    half = max(1, min(TRIAL_STEPS, args.steps or TRIAL_STEPS) // 2)
    print(f"a trial of {2 * half} steps:")
    with TemporaryDirectory() as folder:
        trial = [*flags_of(args, choices, part, 2, half), "--out", folder]
        try:
            run_script(SCRIPT_OF[part], *trial, quiet=True, limit=60 * args.minutes)
        except TimeoutError:
            problem = "the trial takes longer; give more, or a smaller network or images (--arch, --img_size)"
            raise UserError(f"--minutes {args.minutes:g}: {problem}") from None
        summary = read_json(Path(folder) / SUMMARY)
    step, evaluation = summary["step_seconds"], summary["evaluation_seconds"]  # of the second half: the first is slower
    rest = time.monotonic() - start - 2 * (half * step + evaluation)
    sizes = [len(listing.labelled.paths), len(listing.unlabelled.paths), len(listing.test.paths)]
    tested = sizes[2] or sum(summary["held_out_counts"])
    speed = Speed(step / COSTS[part], evaluation, rest, evaluation / tested)
    spent = time.monotonic() - began
    found, seconds = lengths(args.minutes * 60, speed, spent + fixed_seconds(speed, *sizes), parts, given)
    return found, datetime.now() + timedelta(seconds=seconds - spent)


def flags_of(args: Namespace, choices: dict[str, Any], part: str, epochs: int, steps: int) -> list[Any]:
    """Flags of a training script, but for --out."""
    data = ["--dataset", "folder", "--data_root", args.images, "--epochs", epochs, "--val-iteration", steps]
    return [*data, *as_flags(choices, PASSED[part])]


def some_flags(choices: dict[str, Any], names: tuple[str, ...]) -> list[str]:
    """Of scripts that take only these."""
    return as_flags(choices, (one for one in PASSED["fix"] if one.name in names))


def floor(args: Namespace, choices: dict[str, Any]) -> None:
    """What is to be beaten: of the pre-trained network's features, else of pixels."""
    folder, weights = args.out / "floor", choices.get("weights")
    if all(is_finished(folder / name) for name in (FLOORS if weights else FLOORS[:2])):
        return
    flags = ["--data_root", args.images, *some_flags(choices, FLOOR_FLAGS), "--out", folder]
    if weights:
        features = args.out / "features.npy"
        run_script("cache_features", args.images, *some_flags(choices, NETWORK_FLAGS), "--out", features)
        flags += ["--features", features]
    run_script("floor", *flags)


def train(args: Namespace, plan: dict[str, Any], part: str) -> None:
    """Unless it has come to its end before."""
    folder = args.out / part
    if is_finished(folder):
        return
    flags = flags_of(args, plan["choices"], part, plan["epochs"], plan["steps"][part] // plan["epochs"])
    stage1 = ["--resume", args.out / "fix" / LATEST] if part == "cossl" else []
    run_script(SCRIPT_OF[part], *flags, *stage1, "--out", folder)


def show(args: Namespace, plan: dict[str, Any], listing: Listing) -> None:
    """Predictions and gallery of the unlabelled images; where there are none, of the labelled ones. Last the report,
    which says whether the floor was beaten.
    """
    run = args.out / plan["parts"][-1]
    checkpoint = run / BEST if (run / BEST).exists() else run / LATEST
    shown = listing.unlabelled if listing.unlabelled.paths else listing.labelled
    images = shown.place
    if images.is_file():
        images = args.out / "shown.csv"
        with images.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            csv.writer(file).writerows([["path", "label"], *([path.absolute(), ""] for path in shown.paths)])
    results = ["--out", args.out / "predictions.csv", "--gallery", args.out / "gallery.html"]
    run_script("predict", "--checkpoint", checkpoint, images, *results, *some_flags(plan["choices"], PREDICT_FLAGS))
    runs = [args.out / name for name in ("floor", *plan["parts"])]
    run_script("report", *runs, "--out", args.out / "report")


if __name__ == "__main__":
    run_main(main)
