"""A rank of test_distributed.py: trains three steps of several recipes and saves what came out to OUT.RANK.

torchrun --nproc_per_node 2 tests/helpers/ranks.py FLAGS.json OUT
"""

import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import torch

sys.path.insert(0, str(Path(__file__).parent.parent.parent))  # for a process of its own

from utils.start import run_main

from dataset.image_loader import ImageLoader
from training.run import Run, saved_objects
from training.totals import Totals
from utils.errors import UserError
from utils.ranks import agree, mean_over_ranks, rank, start_alike

STEPS = 3


def composed(script: str, flags: list[str]) -> SimpleNamespace:
    """What a recipe hands to `Run.fit`: step, predict, data, steps, before; and objects, batches, args."""
    recipe, found = importlib.import_module(Path(script).stem), SimpleNamespace()

    def fit(self, step, predict, data, steps, student, teacher=None, before=None):
        objects = saved_objects(step, student, teacher)
        batches = data.batches(step.streams, *step.draws)
        before = before or (lambda: None)
        found.__dict__.update(locals(), args=self.args)

    with patch.object(Run, "fit", fit), patch.object(sys, "argv", [script, *flags]):
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


def met() -> dict:
    """What becomes of tensors, modules and numbers that differ between the ranks."""
    some = [torch.full((2, 3), 1.0 + rank()), torch.tensor(4.0 * rank(), dtype=torch.float64)]
    mean_over_ranks(some)
    loader = ImageLoader(16, 0, 0, True, torch.device("cpu"))
    loader.waited, loader.skipped = 3.0 * rank(), 2 * rank() + 1
    torch.manual_seed(rank())
    norm = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    norm[1].num_batches_tracked += 5 * rank()
    start_alike([norm])
    try:
        agree(rank() + 3, "--out: not the same")
    except UserError as error:
        told = {"mean": some, "alike": norm.state_dict(), "problem": str(error)}
        return told | {"fed": [loader.figures() for _ in range(2)]}


def main() -> None:
    results = {"met": met()}
    for script, flags in json.loads(Path(sys.argv[1]).read_text()).items():
        run = composed(script.split()[0], flags)
        run.before()
        totals = Totals()
        for t in range(run.steps):
            totals.add(run.step(run.batches.at(t)))
            totals.step += 1
        results[script] = result(run.objects) | {"logs": totals.over_ranks()}
    torch.save(results, f"{sys.argv[2]}.{rank()}")


if __name__ == "__main__":
    run_main(main)
