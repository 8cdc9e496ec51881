"""Which rank doesn't answer, told from the signs of all; the clock of the test is the number of looks."""

from collections.abc import Callable

import pytest

from utils import watch as module
from utils.signs import Signs


class Named(Exception):
    """Carries the last line of the process."""


class Store(dict):
    def set(self, key: str, text: str) -> None:
        self[key] = text.encode()

    def check(self, keys: list[str]) -> bool:
        return all(key in self for key in keys)


@pytest.fixture
def looks(monkeypatch, as_rank):
    """The line, and the look, with which rank 0 of three ends; None for none in 300 looks. happens: what there is at
    each look, of its own signs and in the store."""

    def look(happens: Callable[[int, Signs, Store], None]) -> tuple[int, str] | None:
        signs, store, n = Signs(), Store(), 0

        def sleep(seconds: float) -> None:
            nonlocal n
            assert seconds == 0.5
            n += 1
            if n == 300:
                raise TimeoutError
            happens(n, signs, store)

        def end(code: int, line: str) -> None:
            assert code == 1
            raise Named(line)

        as_rank(0, of=3)
        monkeypatch.setattr(module, "SIGNS", signs)
        monkeypatch.setattr(module, "sleep", sleep)
        monkeypatch.setattr(module, "end_at_once", end)
        happens(0, signs, store)
        try:
            module._look(store, 0.5)
        except TimeoutError:
            return None
        except Named as named:
            return n, str(named)

    return look


def test_a_rank_that_is_behind_is_named(looks):
    """It was stopped in its work at look 10; the other one waits for it, too."""

    def happens(n, signs, store):
        signs.entered, signs.waits = min(n, 10) + 1, n >= 10
        store.set("1", f"{min(n, 10)} {min(n, 10)}")
        store.set("2", f"11 waits {n}" if n >= 10 else f"{n} 0")

    look, line = looks(happens)
    assert look == 10 + module.LOOKS
    assert line.startswith("error: rank 1 has not answered for 0.5 minutes (--rank_timeout); the same command")


def test_a_rank_that_is_stopped_while_it_waits_is_named(looks):
    def happens(n, signs, store):
        signs.entered, signs.waits = 5, True
        store.set("1", f"5 waits {min(n, 20)}")
        store.set("2", f"5 waits {n}")

    assert looks(happens)[1].startswith("error: rank 1 has")


def test_ranks_that_never_come_are_named(looks):
    def happens(n, signs, store):
        signs.entered, signs.waits = 1, True

    assert looks(happens)[1].startswith("error: ranks 1, 2 have not answered")


def test_a_rank_that_gets_on_may_take_any_time(looks):
    """Rank 0 of a run evaluates while the others wait: each batch is a sign."""

    def happens(n, signs, store):
        signs.entered, signs.waits = 9, True
        store.set("1", f"8 {n // 50}")
        store.set("2", f"9 waits {n}")

    assert looks(happens) is None


def test_work_of_all_may_take_any_time(looks):
    """The head's warm-up shows no sign; nobody waits for anyone."""

    def happens(n, signs, store):
        signs.entered = 3
        store.set("1", "3 7")
        store.set("2", "2 7" if n < 40 else "3 7")

    assert looks(happens) is None


def guard(monkeypatch, happens) -> tuple[int, str] | None:
    """The line, and the look, with which a process ends by itself; None for none in 300 looks."""
    signs, n = Signs(), 0

    def sleep(seconds: float) -> None:
        nonlocal n
        n += 1
        if n == 300:
            raise TimeoutError
        happens(n, signs)

    def end(code: int, line: str) -> None:
        assert code == 1
        raise Named(line)

    monkeypatch.setenv("MASTER_ADDR", "example")
    monkeypatch.setattr(module, "SIGNS", signs)
    monkeypatch.setattr(module, "sleep", sleep)
    monkeypatch.setattr(module, "end_at_once", end)
    try:
        module._guard(0.5)
    except TimeoutError:
        return None
    except Named as named:
        return n, str(named)


def test_a_silent_store_ends_a_process_that_waits(monkeypatch):
    """Its looks hang in the store, from look 20 on."""

    def happens(n, signs):
        signs.looks, signs.waits = min(n, 20), True

    look, line = guard(monkeypatch, happens)
    assert look == 20 + module.LOOKS
    assert line.startswith("error: torchrun's store on example has not answered for 0.5 minutes (--rank_timeout); the")


def test_a_silent_store_does_not_end_work(monkeypatch):
    def happens(n, signs):
        signs.looks, signs.waits = 1, False

    assert guard(monkeypatch, happens) is None


def test_looks_that_go_on_end_nothing(monkeypatch):
    def happens(n, signs):
        signs.looks, signs.waits = n, True

    assert guard(monkeypatch, happens) is None
