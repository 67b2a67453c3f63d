import asyncio
import threading

async def main():
    loop = asyncio.get_running_loop()
    fut = loop.create_future()
    called = loop.create_future()

    def callback(*args):
        here = threading.current_thread() is threading.main_thread()
        print("callback", args, "in the loop's thread:", here)
        called.set_result(None)

    def thread(*args):
        loop.call_soon_threadsafe(callback, *args)
        loop.call_soon_threadsafe(fut.cancel)

    other = threading.Thread(target=thread, args=(1, "two"))
    other.start()
    await called
    try:
        await fut
    except asyncio.CancelledError:
        print("cancelled from another thread")
    other.join()

asyncio.run(main())
