"""The folder of a floor, which has a summary as a run's, and no checkpoint."""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from training.folder import SUMMARY, discard_run, make_folder, written
from training.history import versions
from training.resume import differing
from utils.args import PLACE
from utils.errors import UserError
from utils.files import atomic_write_text, read_json, to_json
from utils.flags import with_role


def refuse_other_floor(out: Path, arguments: Mapping[str, Any]) -> None:
    """Raise UserError if a folder holds what a run left, unless that is a floor with the same arguments, but for their
    place.
    """
    found = sorted(path.name for path in written(out))
    difference = f"{found[0]} of a run" if found else ""
    if found == [SUMMARY]:
        try:
            summary = read_json(out / found[0])
            then = summary["arguments"] if summary["floor"] else {}
            names = [name for name in {**arguments, **then} if name not in with_role(PLACE)]
            difference = differing(arguments, then, names)
        except ValueError:  # no JSON
            difference = ""
        except (LookupError, TypeError):
            pass
    if difference:
        raise UserError(f"--out {out}: holds another run: {difference}; take another folder, or --overwrite")


def write_floor(
    out: Path, facts: dict[str, Any], arguments: dict[str, Any], tested: dict[str, Any], seconds: float
) -> None:
    """Write the summary of a floor, with `--overwrite` in place of all that the folder holds.

    facts: see `schema.Facts`; tested: of `metrics.evaluate`; seconds: of wall time.
    """
    make_folder(out)
    if arguments["overwrite"]:
        discard_run(out)
    figures = {name: value for name, value in tested.items() if name != "confusion"}
    parts = dict.fromkeys(("last_20_mean", "last_epoch", "best"), figures)
    about = {"steps_per_epoch": 0, "arguments": arguments, "epochs": 0, "epochs_averaged": 0}
    machine = {"versions": versions() | {"scikit-learn": version("scikit-learn")}, "processes": 1}
    summary = {"status": "finished", "floor": True, "start_epoch": 0} | facts | about | parts | machine
    atomic_write_text(out / SUMMARY, to_json(summary | {"wall_seconds": round(seconds, 1)}))
