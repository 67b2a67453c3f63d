"""A Sanic application, which its worker processes import anew."""

import sys

import sanic
import who

import aioloop

if sys.argv[2] == "install":
    aioloop.install()
elif sys.argv[2] == "as_uvloop":
    aioloop.install(as_uvloop=True)

app = sanic.Sanic("plug")
if sys.argv[2] == "install":
    app.config.USE_UVLOOP = False


@app.post("/who")
async def tell(request):
    return sanic.json(who.answer(len(request.body)))


if __name__ == "__main__":
    workers = int(sys.argv[3])
    how = {"workers": workers} if workers else {"single_process": True}
    app.run(host="127.0.0.1", port=int(sys.argv[1]), access_log=False, **how)
