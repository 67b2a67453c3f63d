import asyncio
import threading

async def coro_func():
     return await asyncio.sleep(1, 42)

# Later in another OS thread:

def thread(loop):
    future = asyncio.run_coroutine_threadsafe(coro_func(), loop)
    # Wait for the result:
    result = future.result()
    print("result", result)

async def main():
    loop = asyncio.get_running_loop()
    other = threading.Thread(target=thread, args=(loop,))
    other.start()
    while other.is_alive():
        await asyncio.sleep(0.01)

asyncio.run(main())
