"""A FastAPI application."""

import who
from fastapi import FastAPI, Request

app = FastAPI()


@app.post("/who")
async def tell(request: Request):
    return who.answer(len(await request.body()))
