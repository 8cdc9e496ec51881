"""Take a trained network away: one file that classifies pixels, for ONNX Runtime and the like, or for PyTorch.

    python export.py RUN/checkpoint.pth.tar --to onnx

The file needs nothing of this code. It holds what predict.py asks: the momentum encoder with its own classifier, or in
CoSSL with the balanced head's average; normalisation before it and softmax behind it; the names of the classes; and in
words how to prepare images.

Shape legend: N images (N, 3, S, S), any number of them; C classes.
"""

from utils.start import run_main

import json
from argparse import Namespace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from reporting.predictor import Predictor
from reporting.published_flags import add_published_flags, facts_of
from reporting.trained import Model, load_model
from utils.args import Parser
from utils.errors import UserError
from utils.files import check_writable, replacing
from utils.flag_types import path
from utils.text import printable

ENDINGS = {"onnx": ".onnx", "torch": ".pt2"}
PACKAGES = ("onnx", "onnxscript")  # which PyTorch writes ONNX with
OLDEST = (2, 6)  # of PyTorch, for both


def main() -> None:
    args = command_line()
    out = args.out or Path(f"model{ENDINGS[args.to]}")
    check_out(out, args.to)
    check_packages(args.to)
    model = load_model(args.checkpoint, "CHECKPOINT", torch.device("cpu"))
    if out.exists() and out.samefile(args.checkpoint):
        raise UserError(f"--out {out}: would replace the checkpoint; take another file")
    facts = facts_of(model, args)
    predictor = Predictor(model.predict, facts)
    about = description(model, facts, predictor)
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as temporary:
        {"onnx": write_onnx, "torch": write_torch}[args.to](traced(predictor), about, temporary)
    if facts["dataset"]:
        print(f"images prepared as those of {facts['dataset']}, {facts['img_size']} pixels")
    print("\n".join(f"{name}: {about[name]}" for name in ("input", "preparation", "normalisation", "output")))
    print(f"results: {printable(out)}")


def command_line() -> Namespace:
    parser = Parser("Take a trained network away: one file that classifies pixels, without this code.")
    add = parser.add_argument
    add("checkpoint", metavar="CHECKPOINT", type=path, help="checkpoint of any recipe")
    about = f"onnx needs the packages {' and '.join(PACKAGES)}; torch is read by torch.export.load"
    add("--to", choices=ENDINGS, default="onnx", help=about)
    add("--out", type=path, help=f"file to write; unless given, model{' or model'.join(ENDINGS.values())}")
    add_published_flags(parser)
    return parser.parse_args()


def check_out(out: Path, to: str) -> None:
    """Raise UserError for a name that may be of another kind of file, and where none can be written."""
    if out.suffix.lower() != ENDINGS[to]:
        raise UserError(f"--out {out}: --to {to} writes files that end in {ENDINGS[to]}; take such a name")
    if out.exists() and not out.is_file():
        raise UserError(f"--out {out}: not a file; take another name")
    check_writable(out.parent)


def check_packages(to: str) -> None:
    """Raise UserError where one is missing, or PyTorch is too old."""
    if torch.__version__ < OLDEST:
        least = ".".join(map(str, OLDEST))
        raise UserError(f"--to {to}: needs PyTorch {least} or newer, here is {torch.__version__}; install a newer one")
    if missing := [name for name in PACKAGES if to == "onnx" and find_spec(name) is None]:
        remedy = f"pip install {' '.join(PACKAGES)}, or give --to torch"
        raise UserError(f"--to onnx: {' and '.join(missing)} not installed; {remedy}")


def description(model: Model, facts: dict[str, Any], predictor: Predictor) -> dict[str, Any]:
    """What stands in the file beside the network: words for people, and values for programs."""
    size, resize, classes = predictor.img_size, predictor.resize, facts["classes"]
    cut = f"the largest square at the centre, resized to {size} x {size}, bilinear (ImageOps.fit of Pillow)"
    if resize is not None:
        cut = f"the shorter side resized to {resize}, bilinear, then the {size} x {size} pixels at the centre"
    mean, std = (list(facts[name]) for name in ("mean", "std"))
    return {
        "input": f"pixels: uint8 (N, 3, {size}, {size}), RGB, 0 to 255, any number N of images",
        "preparation": f"turned upright by Exif; RGB of 8 bits (16 are scaled), what is transparent on white; {cut}",
        "normalisation": f"in the file: pixels / 255, less mean {mean}, divided by std {std}",
        "output": f"probabilities: float32 (N, {len(classes)}), each row of sum 1, in the order of `classes`",
        "classes": list(classes),
        "img_size": size,
        "resize": resize,
        "labelled_counts": facts["labelled_counts"],
        "method": model.method,
        "epoch": model.epoch,
    }


def traced(predictor: Predictor) -> ExportedProgram:
    """The graph of the predictor, for any number of images; without the paths of this code that PyTorch notes there."""
    example = torch.zeros(2, 3, predictor.img_size, predictor.img_size, dtype=torch.uint8)  # of 1, it would be for 1
    shapes = {"pixels": {0: torch.export.Dim("N", min=1)}}
    program = torch.export.export(predictor, (example,), dynamic_shapes=shapes)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program


def write_torch(program: ExportedProgram, about: dict[str, Any], out: Path) -> None:
    """about: as JSON, in the extra file about.json."""
    with out.open("wb") as file:  # by its name it would have to end in .pt2
        torch.export.save(program, file, extra_files={"about.json": json.dumps(about)})


def write_onnx(program: ExportedProgram, about: dict[str, Any], out: Path) -> None:
    """about: as metadata, of which words stay as they are, and values are JSON."""
    names = {"input_names": ["pixels"], "output_names": ["probabilities"], "dynamic_shapes": {"pixels": {0: "N"}}}
    written = torch.onnx.export(program, dynamo=True, verbose=False, **names)
    words = {name: value if isinstance(value, str) else json.dumps(value) for name, value in about.items()}
    written.model.metadata_props.update(words)
    written.save(out)


if __name__ == "__main__":
    run_main(main)
