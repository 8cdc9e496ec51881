"""Trained networks from Python, as docs/own-images.md shows: `from cossl import load`. Not a script.

Shape legend: C classes.
"""

from pathlib import Path
from types import SimpleNamespace

import torch

from reporting.predictor import Predictor
from reporting.published_flags import PREPARED, facts_of
from reporting.trained import load_model
from utils.errors import UserError
from utils.text import reason


def load(
    checkpoint: str | Path,
    device: str = "cpu",
    *,
    classes: list[str] | None = None,
    dataset: str | None = None,
    img_size: int | None = None,
) -> tuple[Predictor, list[str]]:
    """The predictor in a checkpoint, and the names of its classes, (C,), in the order of its probabilities.

    device: as PyTorch calls it; classes (C,), dataset, img_size: of a checkpoint of the published code, what the flags
    of `predict.py` tell. Raises UserError for a file that is no checkpoint of a network here, for a device that isn't
    there, and for one of the others that is missing, wrong or not needed.
    """
    if dataset not in (None, *PREPARED):
        raise UserError(f"dataset {dataset}: not known; give one of {', '.join(PREPARED)}")
    try:
        place = torch.zeros(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {device}: {reason(error).split('.')[0]}; give 'cpu', or 'cuda' with a GPU") from None
    model = load_model(Path(checkpoint).expanduser(), "", place)
    flags = SimpleNamespace(classes=classes, labelled_counts=None, dataset=dataset, img_size=img_size)
    facts = facts_of(model, flags)
    return Predictor(model.predict, facts).to(place), list(facts["classes"])
