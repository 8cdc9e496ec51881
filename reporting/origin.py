"""What a run is of, recognised by its checkpoint's content: its data set, its method."""

from typing import Any


def dataset_of(arguments: dict[str, Any]) -> str | None:
    """The name of the data set, as `--dataset` spells it; None where the arguments don't tell."""
    recipe = str(arguments.get("recipe", ""))
    for recipes, name in (("small_imagenet127", "small_imagenet127"), ("food", "food101")):  # they have no --dataset
        if recipes in recipe:
            return name
    return arguments.get("dataset")


def method_of(state: dict[str, Any]) -> str:
    """The method's name; published checkpoints tell ReMixMatch by its running mean, and CoSSL by its head.

    state: a checkpoint, or any dict with the same `facts` and `arguments`.
    """
    arguments, facts = state.get("arguments", {}), state.get("facts", {})
    if "method" in facts:
        return facts["method"] + ", cRT" * (arguments.get("classifier") == "crt")
    names = ["ReMixMatch"] * ("emp_distb_u" in state) + ["CoSSL"] * ("ema_teacher" in state)
    return "+".join(names) or "pre-training"
