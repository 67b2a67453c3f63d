"""Run an unchanged asyncio program on aioloop: ``python -m aioloop program.py``."""

from aioloop._main import main

if __name__ == "__main__":
    main()
