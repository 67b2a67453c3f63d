"""A Tornado application, in the two ways that its manual starts one."""

import asyncio
import contextlib
import sys

import tornado.ioloop
import tornado.web
import who


class Tell(tornado.web.RequestHandler):
    async def post(self):
        self.write(who.answer(len(self.request.body)))


def listen():
    application = tornado.web.Application([("/who", Tell)])
    application.listen(int(sys.argv[1]), address="127.0.0.1")


async def main():
    listen()
    await asyncio.Event().wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        if sys.argv[2] == "run":
            asyncio.run(main())
        else:
            listen()
            tornado.ioloop.IOLoop.current().start()
