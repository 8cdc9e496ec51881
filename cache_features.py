"""Write the features of all images of a folder or CSV once, for floor.py --features.

    python cache_features.py IMAGES --checkpoint RUN/checkpoint.pth.tar --out features.npy

float16 (N, D): a row per image, labelled, unlabelled, then test, in the order of their paths. Beside it,
features.json tells of which network, transform and files they are, and how many rows are done: the same command goes on
where a killed one ended.
"""

from utils.start import run_main

from argparse import Namespace

import torch
from torch import Tensor

from dataset.augment import normalise
from dataset.feature_cache import files_key, weights_key, write_features
from dataset.layouts import list_images
from reporting.trained import load_model
from training.folder import make_folder
from utils.args import Parser, gpu, path
from utils.device import pick_device
from utils.errors import UserError
from utils.files import check_writable


def main() -> None:
    args = command_line()
    if args.out.suffix != ".npy":
        raise UserError(f"--out {args.out}: doesn't end in .npy; give such a name")
    check_writable(args.out.parent)
    listing = list_images(args.images, skip_corrupt=False)
    paths = [path for part in listing[1:] for path in part.paths]
    model = load_model(args.checkpoint, "--checkpoint", device := pick_device(args.gpu))
    if not model.facts:
        problem = "is of the published code, and doesn't tell how its images were prepared"
        raise UserError(f"--checkpoint {args.checkpoint}: {problem}; give one of a run made here")
    mean, std = (torch.tensor(model.facts[name], dtype=torch.float32, device=device) for name in ("mean", "std"))

    def features(pixels: Tensor) -> Tensor:
        return model.predict.features(normalise(pixels.to(device), mean, std))

    key = {"architecture": type(model.predict).__name__, "weights": weights_key(model.predict)}
    key |= {name: model.facts.get(name) for name in ("img_size", "resize", "mean", "std")}
    make_folder(args.out.parent)
    write_features(args.out, paths, features, key | {"files": files_key(args.images, paths)}, args.overwrite)
    print(f"results: {args.out}")


def command_line() -> Namespace:
    parser = Parser("Write the features of all images of a folder or CSV once, for floor.py --features.")
    add = parser.add_argument
    add("images", metavar="IMAGES", type=path, help="what --data_root names: a folder of images, or a CSV")
    add("--checkpoint", type=path, required=True, help="checkpoint of the run whose network gives the features")
    add("--out", type=path, required=True, metavar="FILE.npy", help="file to write; FILE.json beside it tells of what")
    add("--gpu", type=gpu, default="0", help="number of the CUDA device, or 'cpu'")
    add("--overwrite", action="store_true", help="replace features of another network, transform or folder")
    return parser.parse_args()


if __name__ == "__main__":
    run_main(main)
