"""A worker that takes the end of the program for a failure of one of its jobs."""

import asyncio
import signal


async def job(number):
    await asyncio.sleep(0.2)


async def poll():
    for number in range(20):
        try:
            await job(number)
        except BaseException as error:
            print(f"job {number} failed: {error!r}")


async def main():
    loop = asyncio.get_running_loop()
    loop.call_later(0.3, signal.raise_signal, signal.SIGINT)  # Ctrl-C
    await asyncio.create_task(poll(), name="poller")


asyncio.run(main())
