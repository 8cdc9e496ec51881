"""Write the features of all images of a folder or CSV once, for floor.py --features.

    python cache_features.py IMAGES --checkpoint RUN/checkpoint.pth.tar --out features.npy
    python cache_features.py IMAGES --arch efficientnet_b0 --img_size 96 --out features.npy

float16 (N, D): a row per image, labelled, unlabelled, then test, in the order of their paths. Beside it,
features.json tells of which network, transform and files they are, and how many rows are done: the same command goes on
where a killed one ended.
"""

from utils.start import run_main

import hashlib
from argparse import SUPPRESS, Namespace
from typing import Any

import torch
from torch import Tensor

from dataset.augment import normalise
from dataset.crops import resized
from dataset.feature_cache import files_key, weights_key, write_features
from dataset.folder import LARGEST_IN_MEMORY
from dataset.held_out import learned_from
from dataset.image_modes import silent_pillow
from dataset.layouts import list_images
from dataset.parts import refuse_among_images
from models.build import library_network
from models.weights import look_of
from reporting.protocol import deciding
from reporting.trained import load_model
from training.folder import make_folder
from utils.args import Parser
from utils.device import pick_device
from utils.errors import UserError
from utils.files import check_writable, to_json
from utils.flag_types import a_name, gpu, image_size, path, weights

LIBRARY = {"weights": "default", "img_size": 96}  # with --arch


def main() -> None:
    args = command_line()
    if (args.checkpoint is None) == (args.arch is None):
        raise UserError("--checkpoint, --arch: one of the two says whose features are wanted; give it")
    if args.out.suffix != ".npy":
        raise UserError(f"--out {args.out}: doesn't end in .npy; give such a name")
    check_writable(args.out.parent)
    refuse_among_images(args.images, args.out)
    if args.checkpoint and vars(args).keys() & LIBRARY.keys():
        raise UserError("--weights, --img_size: of --arch; a checkpoint has its own, leave them out")
    args = Namespace(**LIBRARY | vars(args))
    paths = list_images(args.images, args.skip_corrupt).paths
    device = pick_device(args.gpu)
    network, about = of_checkpoint(args, device) if args.checkpoint else of_library(args)
    network.eval().to(device)
    mean, std = (torch.tensor(about[name], dtype=torch.float32, device=device) for name in ("mean", "std"))

    def features(pixels: Tensor) -> Tensor:
        return network.features(normalise(pixels.to(device), mean, std))

    key = {"weights": weights_key(network)} | about | {"files": files_key(args.images, paths)}
    make_folder(args.out.parent)
    with silent_pillow():
        write_features(args.out, paths, features, key, args.overwrite, args.skip_corrupt)
    print(f"results: {args.out}")


def of_checkpoint(args: Namespace, device: torch.device) -> tuple[Any, dict[str, Any]]:
    """The network of a run made here, and its part of the key."""
    model = load_model(args.checkpoint, "--checkpoint", device)
    if not model.facts:
        problem = "is of the published code, and doesn't tell how its images were prepared"
        raise UserError(f"--checkpoint {args.checkpoint}: {problem}; give one of a run made here")
    about = {name: model.facts.get(name) for name in ("img_size", "resize", "mean", "std")}
    protocol = hashlib.sha256(to_json([deciding(model.arguments, model.facts), model.epoch]).encode()).hexdigest()
    about |= {"architecture": model.facts.get("arch", type(model.predict).__name__)}
    about |= {"method": model.method, "protocol": protocol}
    if model.arguments.get("dataset") == "folder":
        about["learned"] = learned_from(model.facts, model.arguments)
    return model.predict, about


def of_library(args: Namespace) -> tuple[Any, dict[str, Any]]:
    """The same of a network of torchvision or timm, whose images are prepared as a recipe would."""
    torch.manual_seed(0)  # of weights that are none
    network = library_network(args.arch, 1, args.img_size, args.weights)
    mean, std = look_of(args.arch)
    crop = resized(args.img_size) if args.img_size > LARGEST_IN_MEMORY else None
    about = {"img_size": args.img_size, "resize": crop, "mean": list(mean), "std": list(std)}
    return network, {"architecture": args.arch} | about


def command_line() -> Namespace:
    parser = Parser("Write the features of all images of a folder or CSV once, for floor.py --features.")
    add = parser.add_argument
    add("images", metavar="IMAGES", type=path, help="what --data_root names: a folder of images, or a CSV")
    add("--checkpoint", type=path, help="checkpoint of the run whose network gives the features")
    add(
        "--arch",
        type=a_name,
        metavar="NAME",
        help="in place of it, a network of torchvision, as resnet18, or timm, as timm:NAME",
    )
    about = "of --arch: the file of a state dict, none, or the library's download (default), as without the flag"
    add("--weights", type=weights, default=SUPPRESS, metavar="FILE", help=about)
    about = "of --arch: side of the images, pixels, 96 unless given; a multiple of 8"
    add("--img_size", type=image_size, default=SUPPRESS, help=about)
    add("--out", type=path, required=True, metavar="FILE.npy", help="file to write; FILE.json beside it tells of what")
    add("--skip_corrupt", action="store_true", help="rows of unreadable images are NaN, and these are named")
    add("--gpu", type=gpu, default="0", help="number of the CUDA device, or 'cpu'")
    add("--overwrite", action="store_true", help="replace features of another network, transform or folder")
    return parser.parse_args()


if __name__ == "__main__":
    run_main(main)
