"""Two clerks who move money in opposite directions, each with both accounts locked."""

import asyncio


class Account:
    def __init__(self, balance):
        self.balance = balance
        self.lock = asyncio.Lock()


async def move(source, target, amount):
    async with source.lock:
        await asyncio.sleep(0)  # A look at the balance.
        async with target.lock:
            source.balance -= amount
            target.balance += amount


async def main():
    savings, giro = Account(100), Account(100)
    async with asyncio.TaskGroup() as group:
        group.create_task(move(savings, giro, 10), name="clerk-1")
        group.create_task(move(giro, savings, 20), name="clerk-2")


asyncio.run(main())
