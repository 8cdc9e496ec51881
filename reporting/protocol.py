"""What a run was asked to do, but for its seed: data set, method, and the arguments that decide its numbers."""

import json
import re
from collections.abc import Iterable, Mapping
from itertools import chain, count
from pathlib import Path
from typing import Any

from reporting.runs import FinishedRun
from utils.args import DATA, RESULT
from utils.flags import LONG_TAIL, spelled, with_role

# Each has a colour of its own, by its place here, on every page and figure.
METHODS = ("FixMatch", "FixMatch+CoSSL", "MixMatch", "MixMatch+CoSSL", "ReMixMatch", "ReMixMatch+CoSSL")
METHODS += ("FixMatch+CReST+", "ReMixMatch+CReST+", "supervised")
# These share the colours from MixMatch's on, in other dashes.
SUCCESSORS = ("FixMatch+LA", "FixMatch+SimPro", "FixMatch+ADELLO", "FixMatch+ABC", "FixMatch+ACR", "FixMatch+CDMAD")
SUCCESSORS += ("FixMatch+prior+CoSSL",)
HELD_OUT = "held-out images"
UNUSED = {"folder": {one.name for one in LONG_TAIL}, "stl10": {"ratio", "imb_ratio_u", "order"}}  # flags, by data set
INCLUDED = {"included": "labelled images included", "disjoint": "labelled images left out"}  # among the unlabelled
NAMED_APART = {"manualSeed", "recipe", "dataset"}  # the seeds of a row, its method, and the table that it stands in


def dataset_of(run: FinishedRun) -> str:
    """The data set in words. Folders of one's own images may have the same name and size, and yet not be the same."""
    classes, counts = run.about.get("classes", []), run.about.get("labelled_counts")
    if not run.arguments:
        return f"{len(classes) or 'unknown'} classes (arguments not known)"
    name = str(run.arguments.get("dataset", "unknown"))
    if name != "folder":
        return name
    labelled = f", {sum(counts)} labelled" if counts else ""
    tested = f", tested on {tested_on(run)}" if run.about.get("evaluated_on") == "held-out" else ""
    return f"folder {Path(str(run.arguments.get('data_root', ''))).name}: {len(classes)} classes{labelled}{tested}"


def tested_on(run: FinishedRun) -> str:
    """What its test figures are of, in words."""
    if run.about.get("evaluated_on") != "held-out":
        return "the test set"
    counts = run.about.get("held_out_counts", [])
    return HELD_OUT + (f" of {len(counts) - counts.count(0)} of {len(counts)} classes" if 0 in counts else "")


def content_of(run: FinishedRun) -> str:
    """By what a data set is known: one's own images by their classes, labels and tested part, wherever they lie."""
    if run.arguments.get("dataset") != "folder":
        return dataset_of(run)
    return json.dumps([run.about.get("classes"), run.about.get("labelled_counts"), tested_on(run)])


def name_datasets(runs: Iterable[FinishedRun]) -> dict[str, str]:
    """Content -> name, by `dataset_of` the first run with it; equal names of other contents are numbered from 2."""
    names: dict[str, str] = {}
    for run in runs:
        name, taken = dataset_of(run), names.values()
        numbered = chain([name], (f"{name} ({n})" for n in count(2)))
        if content_of(run) not in names:
            names[content_of(run)] = next(one for one in numbered if one not in taken)
    return names


def method_of(run: FinishedRun) -> str:
    return run.about.get("method", "unknown method")


def intermediate(method: str) -> bool:
    """Whether runs of it are a step on the way: of the generations of self-training only the last one counts."""
    return ", generation " in method


def colour_of(method: str) -> int:
    """The number of a method's colour; a variant has that of its method, an unknown one the last."""
    if " or " in method:  # a published run's, which may be either
        return len(METHODS) - 1
    names = (re.split(r", | \(", method)[0], method.partition("+")[0])
    if names[0] in SUCCESSORS:
        return METHODS.index("MixMatch") + SUCCESSORS.index(names[0])
    return next((METHODS.index(name) for name in names if name in METHODS), len(METHODS) - 1)


def protocol_of(run: FinishedRun) -> dict[str, Any]:
    """All that decides a run's numbers but its seed."""
    return deciding(run.arguments, run.about) or {"folder": run.folder}


def deciding(arguments: dict[str, Any], about: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a run's arguments that decide its numbers, but for its seed; false and none count as not there. Empty
    without arguments. about: facts of it, of which the epoch at which co-learning began is added, and those that tell
    what files of weights and features hold take the place of their paths.
    """
    if not arguments:
        return {}
    facts = {"start_epoch": about.get("start_epoch"), "features": about.get("features_by")}
    if "weights_sha256" in about:
        facts["weights"] = about["weights_sha256"][:12]
    arguments = arguments | facts
    order = arguments.get("order")
    if order == "reversed" and isinstance(arguments.get("imb_ratio_u"), int):
        arguments = arguments | {"imb_ratio_u": -arguments["imb_ratio_u"]}
    unused = UNUSED.get(arguments.get("dataset"), set()) | ({"order"} if order in ("consistent", "reversed") else set())
    kept = {*with_role(DATA, RESULT), "start_epoch"} - NAMED_APART - unused
    return {k: v for k, v in sorted(arguments.items()) if k in kept and v is not None and v is not False}


def setting_of(protocol: dict[str, Any], unlabelled_counts: list[int] | None) -> str:
    """The labelled and unlabelled sets in words, e.g. "γ 100, num_max 1500, ratio 2". Where the classes of the two sets
    aren't alike, the images of each class (C,) that the unlabelled one really has, for no other word is clear.
    """
    words = []
    if (labelled := protocol.get("imb_ratio_l")) is not None:
        words.append(f"γ {labelled}")
        if protocol.get("imb_ratio_u", labelled) != labelled or "order" in protocol:
            words += _counted(protocol, unlabelled_counts)
    if "num_max" in protocol:
        words.append(f"num_max {protocol['num_max']}")
    if "ratio" in protocol:
        words.append(f"ratio {protocol['ratio']:g}")
    if "labeled_percent" in protocol:
        words.append(f"{100 * protocol['labeled_percent']:g} % labelled")
    if "img_size" in protocol and "num_max" not in protocol:
        words.append(f"{protocol['img_size']} pixels")
    return ", ".join(words)


def _counted(protocol: dict[str, Any], counts: list[int] | None) -> list[str]:
    """The unlabelled set by its counts (C,); by the flags that asked for it where these aren't known."""
    if not counts:
        order = f", order {protocol['order']}" if "order" in protocol else ""
        return [f"unlabelled {protocol.get('imb_ratio_u')}{order}"]
    shown = "/".join(map(str, counts)) if len(counts) <= 10 else f"{counts[0]} to {counts[-1]}"
    among = [said("unlabelled", protocol["unlabelled"])] if "unlabelled" in protocol else []
    return [f"unlabelled {shown} (largest/smallest {max(counts) / max(1, min(counts)):.3g})", *among]


def said(key: str, value: Any) -> str:
    """An argument and its value in a row's name."""
    return INCLUDED[value] if key == "unlabelled" and value in INCLUDED else f"{word(key)} {value}"


def word(key: str) -> str:
    """How a row's name calls an argument."""
    return {"start_epoch": "co-learned from epoch", "folder": "in"}.get(key, spelled(key).removeprefix("--"))
