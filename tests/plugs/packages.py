"""What the tests of plug points need from the package index, a folder for each.

The folders are kept outside the tree. None of them is the tests' own environment: there
uvloop is missing or present, and packages meet, as nobody has them.
"""

from __future__ import annotations

import sys
import tarfile
import zlib

from tests.libs.suites import cache_folder, kept_folder, pip

PACKAGES = {
    "uvicorn": ["uvicorn==0.54.0"],
    "gunicorn": ["gunicorn==27.0.1", "uvicorn-worker==0.4.0", "uvicorn==0.54.0"]
    + ["aiohttp==3.14.5"],
    "hypercorn": ["hypercorn==0.18.0"],
    "granian": ["granian==2.8.9"],
    "daphne": ["daphne==4.2.3"],
    "fastapi": ["fastapi==0.165.0", "fastapi-cli==0.0.34", "uvicorn==0.54.0"],
    "litestar": ["litestar==2.25.0", "uvicorn==0.54.0", "rich-click", "jsbeautifier"],
    # With the real uvloop, which they need and will not get.
    "sanic": ["sanic==25.12.1"],
    "robyn": ["robyn==0.88.0"],
    "uvloop": ["uvloop==0.23.0"],
    "tornado": ["tornado==6.6.1"],
    "aiohttp": ["aiohttp==3.14.5"],
    "discord": ["discord.py==2.7.1"],
    "dask": ["distributed==2026.8.0"],
    "jupyter": ["ipykernel==7.4.0", "jupyter_client>=8.6"] + ["ipython>=9"],
    "pyperf": ["pyperf==2.10.0"],
    "pytest-asyncio": ["pytest-asyncio==1.5.0"],
    "pytest-asyncio 1.1": ["pytest-asyncio==1.1.0", "pytest<9"],
    "pytest-asyncio 0.23": ["pytest-asyncio==0.23.8", "pytest<9"],
    "pytest-aiohttp": ["pytest-aiohttp==1.1.1", "aiohttp==3.14.5"],
    "pytest-tornasync": ["pytest-tornasync==0.6.0.post2", "tornado==6.6.1", "pytest<9"],
    "anyio": ["anyio==4.16.0"],
    # What has to do with time.
    "time-machine": ["time-machine==3.6.0"],
    "freezegun": ["freezegun==1.5.5"],
    "looptime": ["looptime==0.9", "pytest-asyncio==1.5.0"],
    "aiotools": ["aiotools==2.2.4"],
    "nest_asyncio": ["nest_asyncio==1.6.0"],
    "nest_asyncio2": ["nest_asyncio2==1.7.4"],
}


def packages(name):
    """Return the folder of these packages; skip the test where it cannot be had."""
    needs = PACKAGES[name]
    tag = f"{zlib.crc32(repr(needs).encode()):08x}"

    def fill(place):
        command = ["install", "--prefer-binary", "--target", place, *needs]
        pip(command, f"the tests of {name}")

    folder = f"{name}-{sys.implementation.cache_tag}-{tag}"
    return kept_folder(cache_folder() / "plugs" / folder, fill)


def source(name):
    """Return the folder of the package's source archive."""
    (requirement,) = PACKAGES[name]

    def fill(place):
        archives = place / "archives"
        command = ["download", "--no-binary", ":all:", "--no-deps", "-d", archives]
        pip([*command, requirement], f"the examples of {name}")
        (archive,) = archives.iterdir()
        with tarfile.open(archive) as opened:
            opened.extractall(place, filter="data")

    folder = kept_folder(cache_folder() / "plugs" / f"{requirement}-source", fill)
    (found,) = folder.glob(f"{name}-*")
    return found
