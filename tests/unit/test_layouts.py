"""A Python whose insides are not as C believes: each fast path is off alone, the
program runs on asyncio's own code there, one warning says so, and ``-V`` lists it.

A child makes such a Python: it changes asyncio's sources as they are imported, or the
C classes in ``_asyncio``, before aioloop sees them. The sanitizers' and the hard build
can also be told something false of each layout. (``make lying`` runs asyncio's own
tests so.)
"""

import json
import os
import re
import sys

import pytest

from aioloop import _core, _layouts
from tests.conftest import CERTIFICATE

FLAVOUR = os.environ.get("AIOLOOP_FLAVOUR")
LYING = FLAVOUR == "lying"
# The build that receives single bytes gets fewer of them.
REPEATS = 100 if FLAVOUR == "hard" else 10_000

# What the child runs first: PATCHES maps module names to pairs of texts.
OTHER_SOURCES = """\
import importlib.machinery, sys

class Loader(importlib.machinery.SourceFileLoader):
    def get_code(self, name):
        source = self.get_source(name)
        for old, new in PATCHES[name]:
            assert old in source, (name, old)
            source = source.replace(old, new)
        return compile(source, self.path, "exec", dont_inherit=True)

class Finder:
    def find_spec(name, path=None, target=None):
        if name not in PATCHES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        spec.loader = Loader(name, spec.origin)
        return spec

sys.meta_path.insert(0, Finder)
"""

# asyncio first: 3.11's _asyncio, imported before it, leaves it with its Python classes.
LARGER_C_CLASS = """\
import asyncio
import _asyncio
class {name}(_asyncio.{name}):
    __slots__ = ("more",)
{name}.__module__ = "_asyncio"
_asyncio.{name} = asyncio.{name} = asyncio.{module}.{name} = {name}
"""

PROGRAM = """\
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import aioloop
import asyncio, contextlib, functools, json, socket, ssl, sys, threading
from aioloop import _core

CERTIFICATE, REPEATS = sys.argv[1], int(sys.argv[2])

def contexts():
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(CERTIFICATE)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    return server, client

async def serve(reader, writer):
    while line := await reader.readline():
        assert writer.get_extra_info("socket").family == socket.AF_INET
        writer.write(line * 2)
        await writer.drain()
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()

async def talk(server_context=None, client_context=None):
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_context)
    host, port = server.sockets[0].getsockname()
    reader, writer = await asyncio.open_connection(host, port, ssl=client_context)
    answer = b""
    for i in range(10):
        line = str(i).encode() * REPEATS + b"\\n"
        writer.write(line)
        got = await reader.readline() + await reader.readuntil()
        assert got == line * 2, (i, len(got))
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    server.close()
    await server.wait_closed()

async def sockets():
    loop = asyncio.get_running_loop()
    one, other = socket.socketpair()
    with one, other:
        one.setblocking(False), other.setblocking(False)
        waiting = loop.create_task(loop.sock_recv(one, 100))
        await asyncio.sleep(0)
        await loop.sock_sendall(other, b"x")
        assert await waiting == b"x"
        waiting = loop.create_task(loop.sock_recv(one, 100))
        await asyncio.sleep(0)
        waiting.cancel()
        assert (await asyncio.wait([waiting]))[0] == {waiting} and waiting.cancelled()
        seen = loop.create_future()
        loop.add_reader(one, lambda: seen.done() or seen.set_result(one.recv(10)))
        other.send(b"more")
        assert await seen == b"more" and loop.remove_reader(one)

class Datagrams(asyncio.DatagramProtocol):
    def __init__(self, got):
        self.got = got
    def datagram_received(self, data, address):
        self.got.set_result(data)

async def datagrams():
    loop = asyncio.get_running_loop()
    got = loop.create_future()
    one, _ = await loop.create_datagram_endpoint(
        lambda: Datagrams(got), local_addr=("127.0.0.1", 0))
    two, _ = await loop.create_datagram_endpoint(
        lambda: Datagrams(None), remote_addr=one.get_extra_info("sockname"))
    two.sendto(b"datagram")
    assert await got == b"datagram"
    one.close(), two.close()
    await asyncio.sleep(0)

async def child():
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "print(input())", stdin=-1, stdout=-1)
    assert (await process.communicate(b"child\\n"))[0] == b"child\\n"

async def tasks():
    loop = asyncio.get_running_loop()
    order = []
    future = loop.create_future()
    assert isinstance(future, aioloop.Future) and isinstance(future, asyncio.Future)
    handle = loop.call_soon(order.append, 1)
    assert isinstance(handle, aioloop.Handle) and isinstance(handle, asyncio.Handle)
    timer = loop.call_later(0.01, future.set_result, 2)
    assert isinstance(timer, aioloop.TimerHandle) and timer.when() > loop.time() - 10
    loop.call_later(3600, order.append, "never").cancel()
    loop.call_soon(order.append, "never").cancel()
    order.append(await future)
    threading.Thread(
        target=loop.call_soon_threadsafe, args=(order.append, 3)).start()
    while len(order) < 3:
        await asyncio.sleep(0.001)
    assert order == [1, 2, 3], order
    task = loop.create_task(asyncio.sleep(3600), name="sleeper")
    assert isinstance(task, aioloop.Task) and isinstance(task, asyncio.Task)
    await asyncio.sleep(0)
    assert task in asyncio.all_tasks() and "sleeper" in repr(task)
    assert asyncio.current_task() in asyncio.all_tasks()
    task.cancel("enough")
    try:
        await task
    except asyncio.CancelledError as error:
        assert error.args == ("enough",), error
    async with asyncio.TaskGroup() as group:
        several = [group.create_task(asyncio.sleep(0.001, i)) for i in range(10)]
    assert [one.result() for one in several] == list(range(10))
    try:
        await asyncio.wait_for(loop.create_future(), 0.001)
    except TimeoutError:
        pass
    lock, got = asyncio.Lock(), []
    async def locked(i):
        async with lock:
            await asyncio.sleep(0)
            got.append(i)
    await asyncio.gather(*map(locked, range(5)))
    assert got == list(range(5))
    for i in range(3):  # A job is C's own once there is an executor.
        assert await loop.run_in_executor(None, lambda: i) == i
    reports = []
    loop.set_exception_handler(lambda loop, context: reports.append(context))
    loop.call_soon(functools.partial(int, "x"))
    await asyncio.sleep(0)
    assert isinstance(reports[0]["exception"], ValueError) and "handle" in reports[0]
    assert repr(reports[0]["handle"]).startswith("<Handle "), reports

async def main():
    # How long a step takes says nothing of a layout.
    asyncio.get_running_loop().slow_callback_duration = 3600
    await tasks()
    await sockets()
    await talk()
    await talk(*contexts())
    await datagrams()
    await child()

for debug, accelerated in (False, False), (True, False), (False, True):
    aioloop.accelerate(accelerated)
    aioloop.run(asyncio.wait_for(main(), 60), debug=debug)
print(json.dumps([_core._layouts_off(), [str(w.message) for w in caught]]))
"""

# Pairs of texts that make a layout another one; and what then is off.
PATCHES = {
    "handle": {
        "asyncio.events": [
            ("__slots__ = ('_callback'", "__slots__ = ('_more', '_callback'")
        ]
    },
    "renamed_slot": {
        "asyncio.events": [
            ("'_repr', ", "'_text', "),
            ("self._repr", "self._text"),
            ("def _repr_info", "def _text_info"),
            ("()._repr_info", "()._text_info"),
        ]
    },
    "transport": {
        "asyncio.transports": [
            ("__slots__ = ('_extra',)", "__slots__ = ('_extra', '_more')")
        ]
    },
    "flow_control": {
        "asyncio.transports": [
            ("('_loop', '_protocol_paused'", "('_more', '_loop', '_protocol_paused'")
        ]
    },
    "transport_socket": {
        "asyncio.trsock": [("__slots__ = ('_sock',)", "__slots__ = ('_sock', '_more')")]
    },
    "stream_reader": {"asyncio.streams": [("_buffer", "_store")]},
    "more_attributes": {
        "asyncio.streams": [("self._eof = False", "self._eof = self._more = False")]
    },
    "ssl_protocol": {"asyncio.sslproto": [("_incoming", "_coming_in")]},
    "ssl_states": {"asyncio.sslproto": [("WRAPPED", "ENCRYPTED")]},
    "primitives": {"asyncio.locks": [("self._locked", "self._taken")]},
    "queues": {"asyncio.queues": [("_unfinished_tasks", "_unfinished")]},
}
OFF = {
    "future": ["asyncio.Future", "asyncio.Task"],
    "task": ["asyncio.Task"],
    "handle": ["asyncio.Handle"],
    "renamed_slot": ["asyncio.Handle"],
    "transport": ["asyncio.Transport"],
    "flow_control": ["asyncio.Transport"],
    "transport_socket": ["get_extra_info('socket')"],
    "stream_reader": ["asyncio.StreamReader"],
    "more_attributes": ["asyncio.StreamReader"],
    "ssl_protocol": ["asyncio.sslproto.SSLProtocol"],
    "ssl_states": ["asyncio.sslproto.SSLProtocol"],
    "primitives": ["accelerate()"],
    "queues": ["accelerate()"],
}
# Which comparison is told something false, and what then is off.
LIES = {
    "future": OFF["future"],
    "future1": OFF["future"],
    "task": OFF["task"],
    "task1": OFF["task"],
    "handle": OFF["handle"],
    "handle1": OFF["handle"],
    "transport": OFF["transport"],
    "transport_socket": OFF["transport_socket"],
    "stream_reader": OFF["stream_reader"],
    "ssl_protocol": OFF["ssl_protocol"],
    "primitives": OFF["primitives"],
    "socket": ["socket.socket"],
    "socket1": ["socket.socket"],
    "frames": ["interpreter frames"],
    "frames1": ["interpreter frames"],
}
if sys.version_info >= (3, 14):
    LIES |= {
        "task2": OFF["task"],
        "current_task": ["asyncio.current_task()"],
        "current_task1": ["asyncio.current_task()"],
    }


def other_python(name):
    if name in ("future", "task"):
        return LARGER_C_CLASS.format(name=name.capitalize(), module=f"{name}s")
    return f"PATCHES = {PATCHES[name]!r}\n{OTHER_SOURCES}"


@pytest.mark.skipif(LYING, reason="this build is told something false")
def test_all_is_known_in_this_python():
    assert _core._layouts_off() == []
    assert _layouts.OFF == ()


@pytest.mark.skipif(not LYING, reason="for the build that is told something false")
def test_what_is_lied_about_is_off():
    lies = os.environ["AIOLOOP_LIES"].split(",")
    assert set(_layouts.OFF) == {text for lie in lies for text in LIES.get(lie, ())}


def check_program(result, off):
    """See that nothing went wrong in PROGRAM, and that one warning says what is off."""
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    found, warnings = json.loads(result.stdout)
    assert found == off
    (text,) = warnings
    assert text.startswith(
        f"aioloop does not know the insides of {', '.join(off)} in Python 3."
    )


@pytest.mark.skipif(LYING, reason="this build is told something false")
@pytest.mark.parametrize("name", OFF)
def test_an_unknown_layout_is_left_to_asyncio(name, python, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(other_python(name) + PROGRAM)
    result = python("-X", "faulthandler", program, CERTIFICATE, REPEATS)
    check_program(result, OFF[name])


@pytest.mark.skipif(
    FLAVOUR not in ("asan", "hard", "lying"), reason="this build believes nothing false"
)
@pytest.mark.parametrize("lie", LIES)
def test_what_is_lied_about_is_left_to_asyncio(lie, python, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    result = python(
        *("-X", "faulthandler", program, CERTIFICATE, REPEATS),
        env={"AIOLOOP_LIES": lie},
    )
    check_program(result, LIES[lie])


@pytest.mark.skipif(LYING, reason="this build is told something false")
def test_the_version_tells_what_is_off(python, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        other_python("handle")
        + "import runpy; sys.argv[:] = ['aioloop', '-V']\n"
        + "runpy.run_module('aioloop', run_name='__main__', alter_sys=True)\n"
    )
    result = python("-W", "ignore", program)
    assert result.stderr == ""
    first, second = result.stdout.splitlines()
    assert re.match(r"aioloop \S+ \(libev ", first)
    assert second == "asyncio's own code runs for: asyncio.Handle"
