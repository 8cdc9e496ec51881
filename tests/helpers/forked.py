"""Scripts in processes of their own, forked from one that holds PyTorch: they start in no time, and may be killed."""

import multiprocessing
import os
import runpy
import sys
import tempfile
from pathlib import Path
from subprocess import CompletedProcess

import torch
from torch.distributed import TCPStore

from helpers.scripts import HANG, ROOT, environment

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["training.run", "torch._dynamo", "torch.utils.tensorboard", "sklearn.datasets"])


class Forked:
    """A script that has been started. environment: of `helpers.scripts`, or one made of it."""

    def __init__(self, script: str, *arguments: object, environment: dict[str, str]) -> None:
        self.argv, self.folder = [script, *map(str, arguments)], tempfile.TemporaryDirectory()
        self.printed = [Path(self.folder.name, name) for name in ("stdout", "stderr")]
        self.process = FORKS.Process(target=_become, args=(self.argv, environment, self.printed))
        self.process.start()

    def wait(self) -> CompletedProcess:
        """Its end, as `subprocess.run` tells it; -9 where it hangs."""
        self.process.join(HANG)
        self.process.kill()
        self.process.join()
        return CompletedProcess(self.argv, self.process.exitcode, *(file.read_text() for file in self.printed))


def run_forked(script: str, *arguments: object, env: dict[str, str] | None = None) -> CompletedProcess:
    return Forked(script, *arguments, environment=env or environment()).wait()


def forked_ranks(of: int, script: str, *arguments: object) -> list[Forked]:
    """Ranks with the settings of torchrun, as another launcher would make them."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    shared = environment(WORLD_SIZE=str(of), **address)
    places = [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(of)]
    ranks = [Forked(script, *arguments, environment=place) for place in places]
    ranks[0].store = store  # which lives as long
    return ranks


def assert_ranks_run(script: str, *arguments: object) -> None:
    """Two ranks, to their end."""
    ended = [rank.wait() for rank in forked_ranks(2, script, *arguments)]
    assert [result.returncode for result in ended] == [0, 0], [result.stderr for result in ended]


def _become(argv: list[str], settings: dict[str, str], printed: list[Path]) -> None:
    for number, file in enumerate(printed, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
    os.chdir(ROOT)
    os.environ.update(settings)
    torch.set_num_threads(int(settings["OMP_NUM_THREADS"]))
    multiprocessing.set_start_method(None, force=True)  # the script's own processes start as they usually do
    sys.argv = argv
    runpy.run_path(str(ROOT / argv[0]), run_name="__main__")
