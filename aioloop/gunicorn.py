"""gunicorn's workers on aioloop, one for each of its ways to an asyncio program.

::

    gunicorn -k aioloop.gunicorn.ASGIWorker app:app      # gunicorn's own ASGI server
    gunicorn -k aioloop.gunicorn.UvicornWorker app:app   # by the package uvicorn-worker
    gunicorn -k aioloop.gunicorn.AiohttpWorker app:app   # an aiohttp.web.Application

Each is the worker it derives from, with aioloop installed in its process, so that other
loops of the application are aioloop's too. It is imported only when asked for, and so
are the packages it needs.
"""

from __future__ import annotations

import asyncio
from typing import Any

from ._install import install
from ._loop import new_event_loop


def _asgi_worker() -> Any:
    from gunicorn.workers.gasgi import ASGIWorker as Worker

    class ASGIWorker(Worker):
        """gunicorn's ASGI worker; ``asgi_loop`` does not count."""

        def init_process(self) -> None:
            install()
            super().init_process()

        def _setup_event_loop(self) -> None:
            self.loop = new_event_loop()
            asyncio.set_event_loop(self.loop)

    return ASGIWorker


def _uvicorn_worker() -> Any:
    from uvicorn_worker import UvicornWorker as Worker

    class UvicornWorker(Worker):
        """uvicorn as a worker of gunicorn."""

        CONFIG_KWARGS = {**Worker.CONFIG_KWARGS, "loop": "aioloop:new_event_loop"}

        def init_process(self) -> None:
            install()
            super().init_process()

    return UvicornWorker


def _aiohttp_worker() -> Any:
    from aiohttp.worker import GunicornWebWorker as Worker

    class AiohttpWorker(Worker):
        """aiohttp's worker of gunicorn, which makes its loop in asyncio's way."""

        def init_process(self) -> None:
            install()
            super().init_process()

    return AiohttpWorker


_MAKERS = {
    "ASGIWorker": _asgi_worker,
    "AiohttpWorker": _aiohttp_worker,
    "UvicornWorker": _uvicorn_worker,
}
__all__ = [*_MAKERS]


def __getattr__(name: str) -> Any:
    if name not in _MAKERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    worker = _MAKERS[name]()
    worker.__qualname__ = name
    globals()[name] = worker
    return worker


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
