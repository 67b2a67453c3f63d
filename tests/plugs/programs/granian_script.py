"""A script that makes granian's server itself; its worker processes may import it."""

import sys

import aioloop

if sys.argv[2] == "as_uvloop":
    aioloop.install(as_uvloop=True)

from granian import Granian
from granian.constants import Interfaces, Loops

if sys.argv[2] == "register":
    import aioloop.granian

if __name__ == "__main__":
    Granian(
        "rsgi_app:app",
        port=int(sys.argv[1]),
        interface=Interfaces.RSGI,
        workers=2,
        loop=Loops.auto if sys.argv[2] == "register" else Loops.uvloop,
    ).serve()
