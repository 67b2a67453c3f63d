"""A tornado server with a WebSocket, and its clients."""

import asyncio

import tornado.httpclient
import tornado.httpserver
import tornado.ioloop
import tornado.netutil
import tornado.web
import tornado.websocket


class Hello(tornado.web.RequestHandler):
    async def get(self):
        await asyncio.sleep(0)
        self.write({"loop": type(asyncio.get_running_loop()).__name__})


class Echo(tornado.websocket.WebSocketHandler):
    async def on_message(self, message):
        await self.write_message(message)


async def main():
    app = tornado.web.Application([("/hello", Hello), ("/echo", Echo)])
    sockets = tornado.netutil.bind_sockets(0, "127.0.0.1")
    server = tornado.httpserver.HTTPServer(app)
    server.add_sockets(sockets)
    port = sockets[0].getsockname()[1]

    client = tornado.httpclient.AsyncHTTPClient()
    urls = [f"http://127.0.0.1:{port}/hello"] * 20
    replies = await asyncio.gather(*map(client.fetch, urls))
    print(len(replies), replies[0].body.decode())

    url = f"ws://127.0.0.1:{port}/echo"
    connection = await tornado.websocket.websocket_connect(url)
    await connection.write_message("x" * 100_000)
    print(len(await connection.read_message()))
    connection.close()
    print(await connection.read_message())

    ticked = tornado.ioloop.IOLoop.current().run_in_executor(None, sum, range(5))
    print(await ticked)
    server.stop()
    await server.close_all_connections()


if __name__ == "__main__":
    asyncio.run(main())
