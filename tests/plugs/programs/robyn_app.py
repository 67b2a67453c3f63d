"""Robyn's hello world, which says uvloop.install() whatever anybody wants."""

import json

import who
from robyn import Robyn

app = Robyn(__file__)


@app.post("/who")
async def tell(request):
    return json.dumps(who.answer(len(request.body)))


if __name__ == "__main__":
    app.start(host="127.0.0.1", _check_port=False)
