"""Bytes both ways over every kind of transport while system calls go wrong.

    python -m tests.shim.transfer --seeds 0-999 [--loop asyncio] [CASE...]

For each seed and case the seed draws which calls fail, how often, and how the program
talks. What a kernel may do to anybody (short counts, EINTR, EAGAIN, a full system that
accepts later) must not be seen: all bytes arrive, once, in order, and nothing is left.
`reset` breaks connections: both sides are told once, and what arrived is a beginning.
The library is compiled first, and the program starts itself again with it preloaded.
"""

import argparse
import asyncio
import collections
import contextlib
import errno
import gc
import logging
import os
import random
import socket
import ssl
import sys
import tempfile
import time
import traceback
from pathlib import Path

import aioloop
from tests.shim import faults as shim

CERTIFICATE = Path(__file__).parents[1] / "certificate.pem"
LIMIT = 60  # seconds that no case may take
PATIENCE = 0.002  # in place of the second that asyncio waits in a full system
EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

BYTES_IN = ("recv", "read")
BYTES_OUT = ("send", "sendmsg", "write", "writev", "sendfile")
MESSAGES = ("recvfrom", "recvmmsg", "sendto")


def harmless(rng):
    """Draw rules for what must not be seen."""
    rules = []

    def add(call, fault, *, often=False):
        m = rng.randrange(2, 5 if often else 10)
        rules.append(f"{call}:{fault}:{rng.randrange(1, m)}/{m}")

    for call in (*BYTES_IN, *BYTES_OUT, *MESSAGES):
        for fault in rng.sample(("short", "EAGAIN", "EINTR"), rng.randrange(1, 4)):
            add(call, fault, often=fault == "short")
    add("epoll_wait", "short", often=True)
    add("epoll_wait", "EINTR")
    add("connect", "EINTR", often=True)
    for fault in rng.sample(("EAGAIN", "EINTR", "ECONNABORTED", "EMFILE", "ENOMEM"), 2):
        rules.append(f"accept4:{fault}:1/{rng.randrange(2, 6)}")
    rng.shuffle(rules)
    return " ".join(rules)


def content(rng, size):
    return rng.randbytes(size)


def pieces(rng, data):
    """Cut data at places that the seed draws."""
    start = 0
    while start < len(data):
        size = rng.choice((1, 10, 100, 3000, 20_000, 70_000))
        yield data[start : start + size]
        start += size


class Talker(asyncio.Protocol):
    """Sends its bytes, minding the water marks, and keeps what comes until the end."""

    def __init__(self, rng, data, ends=True):
        self.rng = rng
        self.parts = list(pieces(rng, data))[::-1]
        self.received = bytearray()
        self.paused = False
        self.ended = not ends
        self.lost = []
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport
        asyncio.get_running_loop().call_soon(self.talk)

    def pause_writing(self):
        assert not self.paused
        self.paused = True

    def resume_writing(self):
        assert self.paused
        self.paused = False
        self.talk()

    def talk(self):
        for _ in range(self.rng.randrange(1, 20)):
            if self.lost or self.paused:
                return
            if not self.parts:
                if not self.ended and self.transport.can_write_eof():
                    self.ended = True
                    self.transport.write_eof()
                return
            if self.rng.randrange(4):
                self.transport.write(self.parts.pop())
            else:
                some = [self.parts.pop() for _ in self.parts[:3]]
                self.transport.writelines(
                    [memoryview(p) if self.rng.randrange(2) else p for p in some]
                )
        asyncio.get_running_loop().call_soon(self.talk)

    def data_received(self, data):
        self.received += data
        if not self.rng.randrange(20):
            self.transport.pause_reading()
            asyncio.get_running_loop().call_soon(self.transport.resume_reading)

    def eof_received(self):
        return True

    def connection_lost(self, exc):
        self.lost.append(exc)
        if not self.done.done():
            self.done.set_result(None)


class BufferedTalker(Talker, asyncio.BufferedProtocol):
    """The same with a buffer of its own."""

    def get_buffer(self, sizehint):
        self.room = bytearray(self.rng.choice((1, 100, 65536)))
        return self.room

    def buffer_updated(self, size):
        self.data_received(self.room[:size])


def same(received, sent, who):
    """Fail where bytes are missing, twice there, or wrong."""
    if received != sent:
        at = next(
            (i for i, (a, b) in enumerate(zip(received, sent, strict=False)) if a != b),
            min(len(received), len(sent)),
        )
        raise AssertionError(
            f"{who}: {len(received)} of {len(sent)} bytes, the first wrong one is {at}"
        )


async def until(condition):
    """Wait for something that nobody tells."""
    while not condition():
        await asyncio.sleep(0.001)


@contextlib.asynccontextmanager
async def serving(rng, family, factory, **tls):
    """A server, as arguments for create_connection and its kin."""
    loop = asyncio.get_running_loop()
    if family == "unix":
        path = tempfile.mktemp(prefix="aioloop-shim-")
        server = await loop.create_unix_server(factory, path, **tls)
        arguments = {"path": path}
        connect = loop.create_unix_connection
    else:
        server = await loop.create_server(factory, "127.0.0.1", 0, **tls)
        host, port = server.sockets[0].getsockname()
        arguments = {"host": host, "port": port}
        connect = loop.create_connection
    try:
        yield connect, arguments
    finally:
        server.close()
        if family == "unix" and os.path.exists(path):
            os.unlink(path)


async def protocols(rng, family, client_tls=None, server_tls=None):
    """Two protocols; both send, both end."""
    there, back = content(rng, rng.randrange(150_000)), content(rng, 100_000)
    kinds = [rng.choice((Talker, BufferedTalker)) for _ in range(2)]
    servers = []

    def factory():
        servers.append(kinds[0](random.Random(rng.random()), back))
        return servers[-1]

    async with serving(rng, family, factory, ssl=server_tls) as (connect, arguments):
        _, client = await connect(
            lambda: kinds[1](random.Random(rng.random()), there),
            ssl=client_tls,
            **arguments,
        )
        await until(lambda: servers)
        (server,) = servers
        await until(lambda: len(client.received) >= len(back) or client.lost)
        await until(lambda: len(server.received) >= len(there) or server.lost)
        client.transport.close()
        server.transport.close()
        await asyncio.gather(client.done, server.done)
        same(server.received, there, "server")
        same(client.received, back, "client")
        assert client.lost == [None] and server.lost == [None], (
            client.lost,
            server.lost,
        )


async def streams(rng, family, client_tls=None, server_tls=None):
    """asyncio's streams, several connections at once."""
    handled = []

    async def serve(reader, writer):
        size = int.from_bytes(await reader.readexactly(4), "big")
        while size:
            data = await reader.read(min(size, 50_000))
            assert data
            size -= len(data)
            writer.write(data)
            await writer.drain()
        writer.close()
        await writer.wait_closed()
        handled.append(writer)

    def factory():
        reader = asyncio.StreamReader()
        return asyncio.StreamReaderProtocol(reader, serve)

    async def ask(connect, arguments, data, own):
        reader = asyncio.StreamReader()
        transport, protocol = await connect(
            lambda: asyncio.StreamReaderProtocol(reader), ssl=client_tls, **arguments
        )
        loop = asyncio.get_running_loop()
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)

        async def send():
            writer.write(len(data).to_bytes(4, "big"))
            for part in pieces(own, data):
                writer.write(part)
                if own.randrange(2):
                    await writer.drain()

        _, answer = await asyncio.gather(send(), reader.read())
        same(answer, data, "client")
        writer.close()
        await writer.wait_closed()

    async with serving(rng, family, factory, ssl=server_tls) as (connect, arguments):
        asked = [content(rng, rng.randrange(60_000)) for _ in range(4)]
        await asyncio.gather(
            *(ask(connect, arguments, d, random.Random(rng.random())) for d in asked)
        )
        await until(lambda: len(handled) == 4)


async def bare(rng, family):
    """sock_connect, sock_accept, sock_sendall, sock_recv, sock_recv_into."""
    loop = asyncio.get_running_loop()
    there, back = content(rng, rng.randrange(100_000)), content(rng, 60_000)
    kind = socket.AF_UNIX if family == "unix" else socket.AF_INET
    with socket.socket(kind) as listener, socket.socket(kind) as client:
        path = tempfile.mktemp(prefix="aioloop-shim-")
        listener.bind(path if family == "unix" else ("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        client.setblocking(False)
        task = loop.create_task(loop.sock_accept(listener))
        await loop.sock_connect(client, listener.getsockname())
        while True:
            try:
                server, _ = await task
                break
            except OSError as exc:  # The kernel's errors are the program's here.
                assert exc.errno in EXHAUSTED | {errno.ECONNABORTED}, exc
                task = loop.create_task(loop.sock_accept(listener))
        if family == "unix":
            os.unlink(path)

        async def send(sock, data, own):
            for part in pieces(own, data):
                await loop.sock_sendall(sock, part)
            sock.shutdown(socket.SHUT_WR)

        async def receive(sock, own):
            received = bytearray()
            room = bytearray(10_000)
            while True:
                if own.randrange(2):
                    data = await loop.sock_recv(sock, own.choice((1, 500, 65536)))
                else:
                    data = room[: await loop.sock_recv_into(sock, room)]
                if not data:
                    return received
                received += data

        owns = [random.Random(rng.random()) for _ in range(4)]
        with server:
            results = await asyncio.gather(
                send(client, there, owns[0]),
                send(server, back, owns[1]),
                receive(server, owns[2]),
                receive(client, owns[3]),
            )
        same(results[2], there, "server")
        same(results[3], back, "client")


async def files(rng, family):
    """loop.sendfile and loop.sock_sendfile, between writes."""
    loop = asyncio.get_running_loop()
    data = content(rng, 1 + rng.randrange(300_000))
    servers = []

    def factory():
        servers.append(Talker(random.Random(rng.random()), b""))
        return servers[-1]

    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        async with serving(rng, family, factory) as (connect, arguments):
            transport, client = await connect(
                lambda: Talker(random.Random(rng.random()), b"", False), **arguments
            )
            transport.write(b"before")
            start, end = sorted(rng.randrange(len(data)) for _ in range(2))
            count = end - start or None
            sent = await loop.sendfile(transport, file, start, count)
            transport.write(b"after")
            part = data[start : start + count] if count else data[start:]
            assert sent == len(part), (sent, len(part))
            transport.close()
            await client.done
            await until(lambda: servers)
            expected = b"before" + part + b"after"
            await until(lambda: len(servers[0].received) >= len(expected))
            servers[0].transport.close()
            await servers[0].done
            same(servers[0].received, expected, "server")
            assert client.lost == [None] == servers[0].lost


async def pipes(rng):
    """Two pipes, one each way."""
    loop = asyncio.get_running_loop()

    async def one_way(data, own):
        read, write = os.pipe()
        source, reader = await loop.connect_read_pipe(
            lambda: Talker(own, b"", False), open(read, "rb", 0)
        )
        sink, writer = await loop.connect_write_pipe(
            lambda: Talker(own, data), open(write, "wb", 0)
        )
        await asyncio.gather(reader.done, writer.done)
        same(reader.received, data, "reader")
        assert reader.lost == [None] == writer.lost, (reader.lost, writer.lost)

    await asyncio.gather(
        *(
            one_way(content(rng, rng.randrange(200_000)), random.Random(rng.random()))
            for _ in range(2)
        )
    )


async def child(rng):
    """A process that gives back what it gets."""
    data = content(rng, rng.randrange(200_000))
    clean = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}
    process = await asyncio.create_subprocess_exec(
        "cat", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env=clean
    )
    out, _ = await process.communicate(data)
    same(out, data, "parent")
    assert process.returncode == 0


class Post(asyncio.DatagramProtocol):
    def __init__(self):
        self.received = []
        self.errors = []
        self.paused = False
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport

    def pause_writing(self):
        self.paused = True

    def resume_writing(self):
        self.paused = False

    def datagram_received(self, data, addr):
        self.received.append((data, addr))

    def error_received(self, exc):
        self.errors.append(exc)

    def connection_lost(self, exc):
        self.done.set_result(exc)


async def datagrams(rng, family):
    """Letters to and fro: each arrives once and in order, or an error tells of it."""
    loop = asyncio.get_running_loop()
    with tempfile.TemporaryDirectory(prefix="aioloop-shim-") as folder:
        if family == "udp":
            names = [("127.0.0.1", 0)] * 2
            make = {}
        else:
            names = [f"{folder}/{name}" for name in "ab"]
            make = {"family": socket.AF_UNIX}
        _, one = await loop.create_datagram_endpoint(Post, names[0], **make)
        here = one.transport.get_extra_info("sockname")
        if family == "udp":
            _, two = await loop.create_datagram_endpoint(Post, remote_addr=here)
        else:
            _, two = await loop.create_datagram_endpoint(Post, names[1], here, **make)
        there = two.transport.get_extra_info("sockname")
        connected = {id(two)}
        letters = {id(one): [], id(two): []}
        for sender, to, receiver in ((one, there, two), (two, here, one)):
            own = random.Random(rng.random())
            for number in range(60):
                letter = number.to_bytes(2, "big") + own.randbytes(own.randrange(1400))
                letters[id(sender)].append(letter)
                sender.transport.sendto(letter, None if id(sender) in connected else to)
                # As much as the kernel's buffers hold.
                await until(
                    lambda s=sender, r=receiver, n=number: (
                        n - 5 <= len(r.received) + len(s.errors)
                    )
                )
            await until(
                lambda s=sender, r=receiver: len(r.received) + len(s.errors) >= 60
            )
            wanted = letters[id(sender)]
            got = [data for data, _ in receiver.received]
            if sender.errors:
                assert all(e.errno == errno.ENOBUFS for e in sender.errors)
                left = iter(wanted)
                assert all(letter in left for letter in got), "out of order, or twice"
                assert len(got) + len(sender.errors) == len(wanted)
            else:
                same(b"".join(got), b"".join(wanted), "receiver")
        for post in (one, two):
            post.transport.close()
            assert await post.done is None


RESETS = {
    "recv": (errno.ECONNRESET, errno.ENOMEM, errno.ENOBUFS, errno.ETIMEDOUT),
    "send": (errno.ECONNRESET, errno.EPIPE, errno.ENOMEM, errno.ENOBUFS),
    "sendmsg": (errno.ECONNRESET, errno.EPIPE, errno.ENOMEM),
}


async def resets(rng, family):
    """A connection breaks somewhere: both sides hear of it, once."""
    there, back = content(rng, 300_000), content(rng, 300_000)
    kinds = [rng.choice((Talker, BufferedTalker)) for _ in range(2)]
    servers = []

    def factory():
        servers.append(kinds[0](random.Random(rng.random()), back))
        return servers[-1]

    async with serving(rng, family, factory) as (connect, arguments):
        _, client = await connect(
            lambda: kinds[1](random.Random(rng.random()), there), **arguments
        )
        await until(lambda: servers)
        (server,) = servers
        sides = (client, server)

        def over():
            # A side that heard the other's end closes, as programs do.
            for one, other in (sides, sides[::-1]):
                if other.lost and not one.lost:
                    one.transport.close()
            return (client.lost and server.lost) or (
                len(client.received) >= len(back) and len(server.received) >= len(there)
            )

        await until(over)
        for side in sides:
            side.transport.close()
        await asyncio.gather(client.done, server.done)
        for side, sent in ((server, there), (client, back)):
            assert len(side.lost) == 1
            same(side.received, sent[: len(side.received)], "a beginning")
            assert side.lost[0] is None or isinstance(side.lost[0], OSError)
        broken = [side.lost[0].errno for side in sides if side.lost[0] is not None]
        if not broken:
            same(server.received, there, "server")
            same(client.received, back, "client")


def tls_contexts(version):
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(CERTIFICATE)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    client.maximum_version = version
    return {"client_tls": client, "server_tls": server}


TLS = [tls_contexts(v) for v in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)]


def any_way(rng, family):
    return rng.choice((protocols, streams, bare, files))(rng, family)


def tls(rng):
    return rng.choice((protocols, streams))(rng, "tcp", **rng.choice(TLS))


CASES = {
    "tcp": lambda rng: any_way(rng, "tcp"),
    "unix": lambda rng: any_way(rng, "unix"),
    "tls": tls,
    "pipes": lambda rng: pipes(rng) if rng.randrange(4) else child(rng),
    "udp": lambda rng: datagrams(rng, "udp"),
    "letters": lambda rng: datagrams(rng, "unix"),
    "reset": lambda rng: resets(rng, rng.choice(("tcp", "unix"))),
}


def rules_of(case, rng):
    """Draw what goes wrong in a case."""
    rules = harmless(rng)
    if case in ("udp", "letters") and rng.randrange(2):
        rules = f"sendto:ENOBUFS:1/{rng.randrange(3, 20)} " + rules
    if case == "reset":
        call = rng.choice(list(RESETS))
        error = errno.errorcode[rng.choice(RESETS[call])]
        rules = f"{call}:{error}:@{rng.randrange(1, 40)} " + rules
    return rules


def descriptors():
    return {name: _target(name) for name in os.listdir("/proc/self/fd")}


def _target(name):
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/self/fd/{name}")


def run(case, seed, faults, loop_factory, callers):
    """Run one case with one seed; return how many calls were spoilt."""
    rng = random.Random(f"{case} {seed}")
    rules = rules_of(case, rng)
    reports = []

    def report(loop, context):
        exc = context.get("exception")
        if not (isinstance(exc, OSError) and exc.errno in EXHAUSTED):
            reports.append(context)

    before = descriptors()
    loop = loop_factory()
    loop.set_exception_handler(report)
    asyncio.set_event_loop(loop)
    try:
        faults.begin(seed, rules, callers)
        loop.run_until_complete(asyncio.wait_for(CASES[case](rng), LIMIT))
    except BaseException as exc:
        exc.add_note(f"rules: {rules}")
        raise
    finally:
        faults.end()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        asyncio.set_event_loop(None)
        loop.close()
    after = descriptors()
    # The listing's own descriptor is among them, closed by now.
    left = {n: t for n, t in after.items() if t and before.get(n) is None}
    assert not left, f"descriptors left: {left}; rules: {rules}"
    assert not reports, (reports, rules)
    return faults.injected()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", default="0-99")
    parser.add_argument("--loop", default="aioloop", choices=("aioloop", "asyncio"))
    parser.add_argument("cases", nargs="*")
    arguments = parser.parse_args()
    shim.preload()
    first, _, last = arguments.seeds.partition("-")
    faults = shim.Faults()
    asyncio.constants.ACCEPT_RETRY_DELAY = PATIENCE
    logging.disable()  # "socket.send() raised exception.", for one
    factory = {
        "aioloop": aioloop.new_event_loop,
        "asyncio": asyncio.SelectorEventLoop,
    }[arguments.loop]
    callers = {"aioloop": shim.OURS, "asyncio": shim.ASYNCIO}[arguments.loop]
    failures = 0
    for case in arguments.cases or CASES:
        spoilt = collections.Counter()
        began = time.monotonic()
        for seed in range(int(first), int(last or first) + 1):
            try:
                spoilt["calls"] += run(case, seed, faults, factory, callers)
                spoilt["seeds"] += 1
            except BaseException as exc:
                if isinstance(exc, KeyboardInterrupt):
                    raise
                failures += 1
                print(f"FAILED: {case}, seed {seed}")
                traceback.print_exc(file=sys.stdout)
            if seed % 50 == 0:
                gc.collect()
        took = time.monotonic() - began
        print(
            f"{case}: {spoilt['seeds']} seeds, {spoilt['calls']} calls spoilt,"
            f" {took:.1f} s",
            flush=True,
        )
    sys.exit(failures != 0)


if __name__ == "__main__":
    main()
