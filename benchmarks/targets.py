"""How much faster than its rivals aioloop is expected to be, row by row.

Targets are times of the best of uvloop, zuvloop and rsloop, on CPython 3.14, where
all of them exist. AGAINST_ASYNCIO names the rows in which asyncio itself beats all of
them and is the rival. Every row, on every version, is to be no slower than asyncio
and uvloop.
"""

import sys

from .loops import ACCELERATED, OURS, REFERENCE

BEST_RIVAL = {
    "call_soon chain": 1.15,
    "call_soon, bursts of 10 000": 1.25,
    "bare yield, one task": 4.0,
    "sleep(0), 1000 tasks": 1.6,
    "create_task + await in turn": 2.0,
    "gather of 1000, per item": 1.4,
    "TaskGroup of 100, per task": 1.2,
    "future ping-pong, one pair": 1.6,
    "future ping-pong, 500 pairs": 1.6,
    "Queue, producer and consumer": 1.15,
    "call_later + cancel": 1.2,
    "call_later, fired": 1.2,
    "call_later(0) chain": 1.2,
    "timeout()": 1.15,
    "chain, a timer pending": 2.5,
    "bare yield, a timer pending": 5.0,
    "busy server: create + await": 2.5,
    "call_soon_threadsafe, bursts": 1.1,
    "getaddrinfo, literal address": 1.2,
    "add_reader round trip": 1.2,
}
AGAINST_ASYNCIO = {
    "threadsafe wake-up, same CPU",
    "threadsafe wake-up, other CPU",
    "run_in_executor, same CPU",
    "run_in_executor, other CPU",
    "run_in_executor beside a busy task",
    "run_in_executor beside connections",
    "a thread's turns beside a busy task",
    "a thread's turns beside connections",
    "spawn true + wait",
}

FLOOR = 1.0
FLOOR_RIVALS = (REFERENCE, "uvloop")
# "No slower than" compares like with like, whose medians differ by chance: by this
# share, or by what the samples of the two loops show.
FLOOR_TOLERANCE = 0.03
TARGET_VERSION = (3, 14)


def rivals(row_name, medians):
    """Return the loops that aioloop is compared with in a row, of those measured."""
    if row_name in AGAINST_ASYNCIO:
        return [name for name in medians if name == REFERENCE]
    ours = (REFERENCE, OURS, ACCELERATED)
    others = [name for name in medians if name not in ours]
    return others or [name for name in medians if name == REFERENCE]


def target(row_name):
    """Return the expected ratio of a row on the interpreter that runs this."""
    if sys.version_info[:2] >= TARGET_VERSION:
        return BEST_RIVAL.get(row_name, FLOOR)
    return FLOOR


def slower_than_floor(medians, spreads):
    """Return which of asyncio and uvloop take less time than aioloop, as short texts.

    `medians` maps the names of the loops that completed a row to their times, aioloop
    among them; `spreads` maps them to the median deviation from it, as a share.
    """
    found = []
    for name in FLOOR_RIVALS:
        if name not in medians:
            continue
        tolerance = max(FLOOR_TOLERANCE, spreads[name], spreads[OURS])
        if medians[name] / medians[OURS] < FLOOR - tolerance:
            found.append(f"SLOWER THAN {name}")
    return found


def missed(row_name, medians, spreads):
    """Return what is missed in a row, as a list of short texts.

    `medians` and `spreads` are those of `slower_than_floor`.
    """
    misses = []
    wanted = target(row_name)
    compared = rivals(row_name, medians)
    if wanted > FLOOR and compared:
        reached = min(medians[name] for name in compared) / medians[OURS]
        if reached < wanted:
            misses.append(f"MISSED {wanted:.2f}")
    return misses + slower_than_floor(medians, spreads)
