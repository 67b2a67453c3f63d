"""A feed that forgets its subscribers when its connection is made anew."""

import asyncio

import aioloop


class Feed:
    def __init__(self):
        self.waiting = []

    def subscribe(self):
        item = asyncio.get_running_loop().create_future()
        self.waiting.append(item)
        return item

    def publish(self, item):
        for future in self.waiting:
            future.set_result(item)

    def connect(self):
        self.waiting = []


async def subscriber(feed):
    item = await feed.subscribe()
    print("got", item)


async def main():
    feed = Feed()
    feed.connect()
    tasks = {
        asyncio.create_task(subscriber(feed), name=f"subscriber-{number}")
        for number in range(1, 4)
    }
    await asyncio.sleep(0.1)
    feed.connect()
    tasks.add(asyncio.create_task(subscriber(feed), name="subscriber-4"))
    await asyncio.sleep(0.1)
    aioloop.dump(leaks=True)
    feed.publish("news")


asyncio.run(main())
