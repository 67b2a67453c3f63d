import asyncio
import logging

async def main():
    print("running")

logging.basicConfig(level=logging.DEBUG)
asyncio.run(main())

logging.getLogger("asyncio").setLevel(logging.WARNING)
asyncio.run(main())
