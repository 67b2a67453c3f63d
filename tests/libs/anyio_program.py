"""anyio: task groups, cancel scopes, streams, threads, processes, sockets."""

import asyncio

import anyio
import anyio.from_thread
import anyio.to_thread


async def echo(stream):
    async with stream:
        async for data in stream:
            await stream.send(data)


async def sockets(group):
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
    group.start_soon(listener.serve, echo)
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with await anyio.connect_tcp("127.0.0.1", port) as stream:
        await stream.send(b"hello")
        received = b""
        while len(received) < 5:
            received += await stream.receive()
        print(received.decode())


async def forever(started, stopped):
    started.set()
    try:
        await anyio.sleep_forever()
    finally:
        stopped.set()


async def main():
    print(type(asyncio.get_running_loop()).__name__)
    async with anyio.create_task_group() as group:
        await sockets(group)
        group.cancel_scope.cancel()

    with anyio.move_on_after(0.01) as scope:
        await anyio.sleep(20)
    print("timed out", scope.cancelled_caught)

    started, stopped = anyio.Event(), anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(forever, started, stopped)
        await started.wait()
        group.cancel_scope.cancel()
    print("cancelled", stopped.is_set())

    send, receive = anyio.create_memory_object_stream(1)
    async with anyio.create_task_group() as group, send, receive:
        for number in range(3):
            group.start_soon(send.send, number)
        print(sum([await receive.receive() for _ in range(3)]))

    def work():
        anyio.from_thread.run(anyio.sleep, 0)
        return "thread"

    print(await anyio.to_thread.run_sync(work))
    process = await anyio.run_process(["tr", "a-z", "A-Z"], input=b"process")
    print(process.stdout.decode())


if __name__ == "__main__":
    asyncio.run(main())
