"""What a run was asked to do, but for its seed: data set, method, and the arguments that decide its numbers."""

from pathlib import Path
from typing import Any

from reporting import origin
from reporting.runs import Run
from training.resume import ADDED, FREE
from utils.args import flag

DATA = ("num_max", "ratio", "imb_ratio_l", "imb_ratio_u", "labeled_percent", "img_size")
UNUSED_BY_FOLDER = {"num_max", "ratio", "imb_ratio_l", "imb_ratio_u"}
NOT_PROTOCOL = FREE | {"manualSeed", "recipe", "dataset", "channels_last", "compile", "cudnn_benchmark"}


def dataset_of(run: Run) -> str:
    """The data set in words: of one's own images with the name of their folder."""
    if not run.arguments:
        return f"{len(run.about.get('classes', [])) or 'unknown'} classes (arguments not known)"
    name = str(origin.dataset_of(run.arguments) or "unknown")
    return f"folder {Path(str(run.arguments.get('data_root', ''))).name}" if name == "folder" else name


def method_of(run: Run) -> str:
    facts = {"method": str(run.about.get("method", "unknown method"))}
    return origin.method_of({"facts": facts, "arguments": run.arguments})


def protocol_of(run: Run) -> dict[str, Any]:
    """All that decides a run's numbers but its seed; false and none count as not there, as in older versions."""
    arguments = ADDED | run.arguments | {"start_epoch": run.about.get("start_epoch")} if run.arguments else {}
    unused = NOT_PROTOCOL | (UNUSED_BY_FOLDER if arguments.get("dataset") == "folder" else set())
    found = {k: v for k, v in sorted(arguments.items()) if k not in unused and v is not None and v is not False}
    return found or {"folder": run.folder}


def setting_of(protocol: dict[str, Any]) -> str:
    """The labelled and unlabelled sets in words, e.g. "γ 100, 1500 labels at most, ratio 2"."""
    words = []
    if (labelled := protocol.get("imb_ratio_l")) is not None:
        unlabelled = protocol.get("imb_ratio_u")
        words.append(f"γ {labelled}" if labelled == unlabelled else f"γ {labelled}, unlabelled {unlabelled}")
    if "num_max" in protocol:
        words += [f"num_max {protocol['num_max']}", f"ratio {protocol.get('ratio', 0):g}"]
    if "labeled_percent" in protocol:
        words.append(f"{100 * protocol['labeled_percent']:g} % labelled")
    if "img_size" in protocol and (protocol.get("dataset") == "folder" or "num_max" not in protocol):
        words.append(f"{protocol['img_size']} pixels")
    return ", ".join(words)


def word(key: str) -> str:
    """How a row's name calls an argument."""
    return {"start_epoch": "co-learned from epoch", "folder": "in"}.get(key, flag(key).removeprefix("--"))
