"""How much CPU time a request is expected to cost on aioloop, row by row.

One table: the first pattern that matches a row's name gives the largest share of the
best rival's CPU time, and of the floor's. It holds on CPython 3.14 and later, where
all the rivals exist. Every row, on every version, is to cost no more than on asyncio
and uvloop.
"""

import fnmatch
import sys

from ..loops import OURS, REFERENCE, TRANSPORTS
from ..targets import FLOOR_TOLERANCE, TARGET_VERSION, slower_than_floor

FLOOR = "floor"
RIVALS = ("uvloop", "zuvloop", "rsloop", TRANSPORTS)
# "No more than the best" compares like with like, whose medians differ by chance.
NO_MORE = 1 + FLOOR_TOLERANCE
# Pattern, share of the best rival's time, share of the floor's.
SHARES = (
    ("protocol *, 64*", 1.05, 1.10),
    ("buffered *, 64*", 1.05, 1.10),
    ("8 writes *, 64*", 0.5, None),
    ("streams 1 KB, *, 64*", 0.8, None),
    ("streams 10 KB, *, 64*", 0.75, None),
    ("readline *, 64*", 0.85, None),
    ("sock_[*] *, 64*", 0.55, None),
    ("datagrams *, 64*", 0.75, None),
    ("HTTP, *, 64*", NO_MORE, None),
    ("HTTPS, *, 64*", NO_MORE, None),
    ("connect + echo + close, *, 64*", NO_MORE, None),
)
# Bytes of resident memory for each pair of idle connections.
MEMORY = {"protocols": 2500, "streams": 7500, "TLS": 90_000}


def shares(row_name):
    """Return what is expected of a row on this interpreter: two shares or Nones."""
    if sys.version_info[:2] >= TARGET_VERSION:
        for pattern, of_best, of_floor in SHARES:
            if fnmatch.fnmatchcase(row_name, pattern):
                return of_best, of_floor
    return None, None


def best_rival(medians):
    """Return the name of the loop to beat, of those measured, or None.

    asyncio is a rival only where no other loop is measured.
    """
    rivals = [name for name in RIVALS if name in medians]
    rivals = rivals or [name for name in medians if name == REFERENCE]
    return min(rivals, key=medians.__getitem__, default=None)


def missed(row_name, medians, spreads):
    """Return what is missed in a row, as a list of short texts.

    `medians` maps the names of the servers that completed the row, aioloop among
    them, to CPU seconds per request; `spreads` maps them to the median deviation from
    it, as a share. Where the floor itself is above what is expected, the text says so.
    """
    of_best, of_floor = shares(row_name)
    best = best_rival(medians)
    misses = []
    if of_best is not None and best is not None:
        if medians[OURS] / medians[best] > of_best:
            text = f"MISSED {of_best:.2f} of {best}"
            floor = medians.get(FLOOR, 0) / medians[best]
            misses.append(text + (f" (floor {floor:.2f})" if floor > of_best else ""))
    if of_floor is not None and FLOOR in medians:
        if medians[OURS] / medians[FLOOR] > of_floor:
            misses.append(f"MISSED {of_floor:.2f} of the floor")
    return misses + slower_than_floor(medians, spreads)
