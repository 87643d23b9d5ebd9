"""Damages a good file in the ways that files get damaged, and forged."""

import random
import re

INTEGERS = (0, 1, 2**7, 2**8 - 1, 2**16, 2**30, 2**31 - 1, 2**32 - 1, 2**62, 2**64 - 1)


def mutated(data: bytes, rng: random.Random) -> bytes:
    """The data after one to four changes."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        data = rng.choice(CHANGES)(data, rng) if data else rng.randbytes(rng.randrange(64))
    return data


def _flip(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def _grown(data: bytes, rng: random.Random) -> bytes:
    return data + rng.randbytes(rng.randrange(1, 100))


def _number(data: bytes, rng: random.Random) -> bytes:
    """A length or offset that is another one."""
    size = rng.choice((1, 2, 4, 8))
    at = rng.randrange(len(data))
    value = rng.choice((*INTEGERS, len(data), rng.getrandbits(64))) % 256**size
    return data[:at] + value.to_bytes(size, rng.choice(("little", "big"))) + data[at + size :]


def _digits(data: bytes, rng: random.Random) -> bytes:
    """A number in text that is another one."""
    found = list(re.finditer(rb"[0-9]+", data))
    if not found:
        return _flip(data, rng)
    match = rng.choice(found)
    value = rng.choice((b"-1", b"9" * 30, b"1e999", b"nan", b"", *(b"%d" % n for n in INTEGERS)))
    return data[: match.start()] + value + data[match.end() :]


def _removed(data: bytes, rng: random.Random) -> bytes:
    start, end = _part(data, rng)
    return data[:start] + data[end:]


def _copied(data: bytes, rng: random.Random) -> bytes:
    """A part that stands a second time, or many times, somewhere else."""
    start, end = _part(data, rng)
    at = rng.randrange(len(data))
    times = rng.choice((1, 1, 1, 300))
    return data[:at] + data[start:end] * times + data[at:]


def _overwritten(data: bytes, rng: random.Random) -> bytes:
    start, end = _part(data, rng)
    at = rng.randrange(len(data))
    return data[:at] + data[start:end] + data[at + end - start :]


def _part(data: bytes, rng: random.Random) -> tuple[int, int]:
    start = rng.randrange(len(data))
    return start, min(len(data), start + rng.choice((1, 4, 16, rng.randrange(1, 200))))


CHANGES = (
    _flip, _flip, _flip, _cut, _grown, _number, _number, _digits, _removed, _copied, _overwritten,
)  # fmt: skip
