"""An aiohttp application, for a server and for ``web.run_app``."""

import sys

import who
from aiohttp import web


async def tell(request):
    return web.json_response(who.answer(len(await request.read())))


app = web.Application()
app.router.add_post("/who", tell)

if __name__ == "__main__":
    import aioloop

    if sys.argv[2:] == ["loop"]:
        loop = aioloop.new_event_loop()
        web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), loop=loop)
    else:
        aioloop.install()
        web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]))
