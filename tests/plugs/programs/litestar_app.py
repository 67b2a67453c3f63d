"""A Litestar application."""

import who
from litestar import Litestar, Request, post


@post("/who", status_code=200)
async def tell(request: Request) -> dict[str, str | int]:
    return who.answer(len(await request.body()))


app = Litestar([tell])
