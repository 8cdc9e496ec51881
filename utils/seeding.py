"""All randomness as a function of (seed, name, step): nothing to save, nothing to rewind."""

from zlib import crc32

import numpy as np


def _sequence(seed: int, name: str, t: int) -> np.random.SeedSequence:
    return np.random.SeedSequence([seed, crc32(name.encode()), t])


def generator(seed: int, name: str, t: int = 0) -> np.random.Generator:
    """The generator of step `t` of the stream called `name`; seed and t are not negative."""
    return np.random.default_rng(_sequence(seed, name, t))


def fold_in(seed: int, name: str, t: int = 0) -> int:
    """A 63-bit seed for `torch.manual_seed` out of (seed, name, t)."""
    return int(_sequence(seed, name, t).generate_state(1, np.uint64)[0] >> np.uint64(1))
