"""A rank of test_distributed.py: trains three steps of several recipes and saves what came out to OUT.RANK.

    torchrun --nproc_per_node 2 tests/ranks.py FLAGS.json OUT

Shape legend: none.
"""

import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import torch

STEPS = 3


def composed(script: str, flags: list[str]) -> SimpleNamespace:
    """What a recipe hands to `fit`: step, objects, args."""
    recipe, found = importlib.import_module(Path(script).stem), SimpleNamespace()

    def fit(step, evaluate, objects, args, facts, start, prepare=None, first_copy=1):
        found.__dict__.update(step=step, objects=objects, args=args)

    with patch.object(recipe, "fit", fit), patch.object(sys, "argv", [script, *flags]):
        recipe.main()
    return found


def result(objects: dict) -> dict:
    """State of all objects, and the gradients of the last step."""
    networks = {key: thing for key, thing in objects.items() if key in ("state_dict", "teacher_head")}
    gradients = {
        key: {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
        for key, network in networks.items()
    }
    return {"gradients": gradients} | {key: thing.state_dict() for key, thing in objects.items()}


def main() -> None:
    from utils.distributed import rank
    from utils.fit import train_epoch

    results = {}
    for script, flags in json.loads(Path(sys.argv[1]).read_text()).items():
        run = composed(script, flags)
        idle = SimpleNamespace(step=lambda *_: None)
        logs = train_epoch(run.step, 1, run.args, idle)
        results[script] = result(run.objects) | {"logs": logs}
    torch.save(results, f"{sys.argv[2]}.{rank()}")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    from utils.errors import run_main

    torch.set_num_threads(1)
    run_main(main)
