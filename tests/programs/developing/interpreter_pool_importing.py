import aioloop
import asyncio
import concurrent.futures

def cpu_bound():
    return sum(i * i for i in range(10 ** 6))

async def main():
    loop = asyncio.get_running_loop()
    with concurrent.futures.InterpreterPoolExecutor(max_workers=2) as pool:
        jobs = [loop.run_in_executor(pool, cpu_bound) for _ in range(4)]
        results = await asyncio.gather(*jobs)
        print('custom interpreter pool', results)

if __name__ == '__main__':
    asyncio.run(main())
