"""A Discord bot, started as its manual says, and a stand-in for Discord beside it.

The bot answers 50 messages; the stand-in prints the answers. Addresses of Discord are
the only thing that is replaced.
"""

import asyncio
import json
import sys
import threading

import discord
import yarl
from aiohttp import WSMsgType, web

MESSAGES = 50
USER = {"id": "1", "username": "bot", "discriminator": "0", "avatar": None, "bot": True}
AUTHOR = {**USER, "id": "2", "username": "somebody", "bot": False}
APPLICATION = {"id": "1", "name": "plug", "icon": None, "description": "", "flags": 0}
APPLICATION |= {"bot_public": True, "bot_require_code_grant": False, "owner": AUTHOR}
APPLICATION |= {"rpc_origins": None, "verify_key": "0", "team": None, "summary": ""}


class Bot(discord.Client):
    async def on_message(self, message):
        if message.author == self.user:
            return
        kind = type(asyncio.get_running_loop())
        await message.channel.send(f"{kind.__module__} {message.content}")


def answer(data):
    """Answer as Discord does, without a charset in the type."""
    body = json.dumps(data).encode()
    return web.Response(body=body, content_type="application/json")


def text_of(number, author=AUTHOR):
    return {
        "id": str(1000 + number),
        "channel_id": "5",
        "author": author,
        "content": str(number),
        "timestamp": "2024-01-01T00:00:00.000000+00:00",
        "edited_timestamp": None,
        "tts": False,
        "mention_everyone": False,
        "mentions": [],
        "mention_roles": [],
        "attachments": [],
        "embeds": [],
        "pinned": False,
        "type": 0,
    }


class Discord:
    """What a bot sees of Discord: two questions, a WebSocket, and a channel."""

    def __init__(self, bot):
        self.bot = bot
        self.answers = []
        self.loop = None

    async def me(self, request):
        return answer(USER)

    async def application(self, request):
        return answer(APPLICATION)

    async def channel(self, request):
        return answer({"id": "5", "type": 1, "recipients": [AUTHOR]})

    async def post(self, request):
        self.answers.append((await request.json())["content"])
        if len(self.answers) == MESSAGES:
            asyncio.run_coroutine_threadsafe(self.bot.close(), self.bot.loop)
        return answer(text_of(len(self.answers), USER))

    async def gateway(self, request):
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await self.say(socket, 10, {"heartbeat_interval": 1000})
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                await self.heard(socket, json.loads(message.data))
        return socket

    async def heard(self, socket, message):
        if message["op"] == 1:
            await self.say(socket, 11, None)
        elif message["op"] == 2:
            ready = {"user": USER, "guilds": [], "session_id": "s", "v": 10}
            ready |= {"application": APPLICATION, "resume_gateway_url": str(self.url)}
            await self.say(socket, 0, ready, "READY", 1)
            channel = {"id": "5", "type": 1, "recipients": [AUTHOR]}
            await self.say(socket, 0, channel, "CHANNEL_CREATE", 2)
            for number in range(MESSAGES):
                text = text_of(number)
                await self.say(socket, 0, text, "MESSAGE_CREATE", 3 + number)

    async def say(self, socket, op, data, name=None, number=None):
        await socket.send_json({"op": op, "d": data, "t": name, "s": number})

    async def start(self):
        """Serve, and return the port."""
        app = web.Application()
        app.router.add_get("/api/users/@me", self.me)
        app.router.add_get("/api/oauth2/applications/@me", self.application)
        app.router.add_get("/api/channels/5", self.channel)
        app.router.add_post("/api/users/@me/channels", self.channel)
        app.router.add_post("/api/channels/5/messages", self.post)
        app.router.add_get("/", self.gateway)
        self.runner = web.AppRunner(app)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", 0).start()
        host, port = self.runner.addresses[0]
        self.url = yarl.URL(f"ws://{host}:{port}/")
        discord.http.Route.BASE = f"http://{host}:{port}/api"
        discord.gateway.DiscordWebSocket.DEFAULT_GATEWAY = self.url


def main():
    bot = Bot(intents=discord.Intents.all())
    stand_in = Discord(bot)
    loop = asyncio.SelectorEventLoop()
    loop.run_until_complete(stand_in.start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        bot.run("token", log_handler=None)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(stand_in.runner.cleanup())
        loop.close()
    print(len(stand_in.answers), sorted({x.split()[0] for x in stand_in.answers}))
    sys.exit(sorted(int(x.split()[1]) for x in stand_in.answers) != [*range(MESSAGES)])


if __name__ == "__main__":
    main()
