import asyncio

async def test():
    print("never scheduled")

async def main():
    await test()

asyncio.run(main())
