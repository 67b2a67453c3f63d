import asyncio
import threading

async def main():
    loop = asyncio.get_running_loop()

    def thread():
        for schedule in (
            lambda: loop.call_soon(print, "never"),
            lambda: loop.call_later(0, print, "never"),
            lambda: loop.call_at(loop.time(), print, "never"),
        ):
            try:
                schedule()
            except RuntimeError as error:
                print("RuntimeError:", error)

    await asyncio.to_thread(thread)

asyncio.run(main(), debug=True)
