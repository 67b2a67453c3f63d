"""What the tests of metrics share."""

import asyncio

import aioloop

LIMIT = 30


def run(main):
    """Run main(loop) on a loop that is metered."""

    async def metered():
        loop = asyncio.get_running_loop()
        loop.metering = True
        await asyncio.sleep(0)  # the callback that turns it on is not measured
        return await asyncio.wait_for(main(loop), LIMIT)

    return aioloop.run(metered())
