"""What an app's row is: a row, what it needs, and tasks that take turns in it."""

import asyncio
import dataclasses
import importlib.util
import sys

from .. import services
from ..peer import CONNECTIONS
from ..row import row

NEEDS = {}


@dataclasses.dataclass(frozen=True)
class Needs:
    """What a row needs: packages that can be imported, and perhaps a service."""

    packages: tuple[str, ...]
    service: str | None = None

    def missing(self):
        """Return the names of what is not here."""
        names = [name for name in self.packages if not importlib.util.find_spec(name)]
        if self.service and (name := services.missing(self.service)):
            names.append(name)
        return names


def app(name, *packages, service=None):
    """Register the coroutine function `(clock, n)` as a row that needs all this."""
    NEEDS[name] = Needs(packages, service)
    return row(name, batch=CONNECTIONS)


def available(row_names):
    """Return the rows that can run here; name the others, and what they lack."""
    found = []
    for name in row_names:
        missing = NEEDS[name].missing() if name in NEEDS else []
        if missing:
            print(f"{name} is left out: missing {', '.join(missing)}", file=sys.stderr)
        else:
            found.append(name)
    return found


def services_of(row_names):
    """Return the services that the rows need."""
    needs = (NEEDS[name].service for name in row_names if name in NEEDS)
    return sorted({service for service in needs if service})


async def in_turns(clock, n, operate):
    """Time `n` awaits of `operate(i)` by as many tasks as there are connections."""

    async def work(i):
        for _ in range(n // CONNECTIONS):
            await operate(i)

    for i in range(CONNECTIONS):
        await operate(i)
    with clock:
        await asyncio.gather(*map(work, range(CONNECTIONS)))
