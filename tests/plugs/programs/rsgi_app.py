"""An application of granian's own interface, RSGI."""

import json

import who


async def app(scope, protocol):
    size = len(await protocol())
    body = json.dumps(who.answer(size))
    protocol.response_str(200, [("content-length", str(len(body)))], body)
