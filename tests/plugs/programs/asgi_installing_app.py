"""The same for a server that imports its application before it makes its loop."""

import aioloop

aioloop.install()

from asgi_app import app  # noqa: E402

__all__ = ["app"]
