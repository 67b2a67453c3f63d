import asyncio
import time

async def blocks():
    time.sleep(0.15)

def callback():
    time.sleep(0.15)

async def main():
    await asyncio.create_task(blocks())
    asyncio.get_running_loop().call_soon(callback)
    await asyncio.sleep(0)

asyncio.run(main(), debug=True)
