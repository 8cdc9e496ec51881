"""Which process of a run under torchrun doesn't answer: the engine only knows that one doesn't."""

import os
from itertools import count
from threading import Thread
from time import sleep
from typing import Any

from utils.ranks import rank, world_size
from utils.signs import SIGNS
from utils.stop import RANKS_GO_ON, end_at_once

LOOKS = 60  # within the timeout


def watch(minutes: float) -> None:
    """From here on this process ends, with exit code 1 and a line that names them, if it has waited for ranks that long
    and they have neither got on nor shown that they live. Those that wait, too, show it.
    """
    if world_size() > 1 and not SIGNS.watched:  # a script may open several runs
        SIGNS.watched = True
        from torch.distributed.distributed_c10d import PrefixStore, _get_default_store

        store = PrefixStore("signs", _get_default_store())
        for target, given in ((_look, (store, minutes)), (_guard, (minutes,))):
            Thread(target=target, args=given, daemon=True).start()


def _look(store: Any, minutes: float) -> None:
    """Tell the others this rank's signs, and look at theirs, over and over. Looks are counted, not seconds: the whole
    run may have been suspended.
    """
    others = [number for number in range(world_size()) if number != rank()]
    last: dict[int, tuple[str, int]] = {}  # of each rank its last sign, and the look that first found it
    for look in count():
        done = f"{SIGNS.entered} {SIGNS.worked}"
        try:
            store.set(str(rank()), f"{SIGNS.entered} waits {look}" if SIGNS.waits else done)
            signs = {n: store.get(str(n)).decode() if store.check([str(n)]) else "0" for n in others}
        except RuntimeError:  # what keeps the signs has ended, and so has the run
            return
        SIGNS.looks += 1
        for number, sign in (signs | {rank(): done}).items():
            if number not in last or last[number][0] != sign:
                last[number] = sign, look
        silent = [number for number, (_, since) in last.items() if look - since >= LOOKS]
        late = [n for n in others if n in silent and ("waits" in signs[n] or int(signs[n].split()[0]) < SIGNS.entered)]
        if rank() in silent and late:
            end_at_once(1, _line(late, minutes))
        sleep(60 * minutes / LOOKS)


def _guard(minutes: float) -> None:
    """End this process, too, if it waits and its looks have stopped: what keeps the signs doesn't answer."""
    seen, since = -1, 0
    for look in count():
        if SIGNS.looks != seen:
            seen, since = SIGNS.looks, look
        elif SIGNS.waits and look - since >= LOOKS:
            end_at_once(1, f"error: torchrun's store on {os.environ['MASTER_ADDR']} has {_rest(minutes)}")
        sleep(60 * minutes / LOOKS)


def _line(late: list[int], minutes: float) -> str:
    who = f"rank {late[0]} has" if len(late) == 1 else f"ranks {', '.join(map(str, late))} have"
    return f"error: {who} {_rest(minutes)}"


def _rest(minutes: float) -> str:
    return f"not answered for {minutes:g} minutes (--rank_timeout); {RANKS_GO_ON}"
