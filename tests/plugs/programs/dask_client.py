"""A client of a dask.distributed scheduler: many small tasks, and some data."""

import asyncio
import sys

from distributed import Client


async def loop_of_worker(dask_worker):
    return kind_of_loop()


async def loop_of_scheduler(dask_scheduler):
    return kind_of_loop()


def kind_of_loop():
    kind = type(asyncio.get_running_loop())
    return f"{kind.__module__}.{kind.__qualname__}"


def add(x, y):
    return x + y


def main():
    with Client(f"tcp://127.0.0.1:{sys.argv[1]}", timeout=60) as client:
        client.wait_for_workers(2, timeout=60)
        kinds = {client.run_on_scheduler(loop_of_scheduler)}
        of_workers = client.run(loop_of_worker)
        print(len(of_workers), sorted({*kinds, *of_workers.values()}))
        numbers = client.map(add, range(1000), range(1000))
        print(sum(client.gather(numbers)))
        data = client.scatter([b"x" * 300_000] * 20, broadcast=True)
        print(sum(client.gather(client.map(len, data, pure=False))))
        assert len(client.has_what()) == 2


if __name__ == "__main__":
    main()
