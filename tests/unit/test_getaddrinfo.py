"""getaddrinfo of literal addresses (src/loop/sockets): equal to socket.getaddrinfo."""

import asyncio
import itertools
import socket
import sys
import threading

import pytest

import aioloop

HOSTS = [
    "127.0.0.1",
    "8.8.8.8",
    "0.0.0.0",
    "255.255.255.255",
    "127.1",
    "1",
    "0x7f000001",
    "010.0.0.1",
    "0.0.0.00",
    "256.1.1.1",
    "1.2.3.4.",
    " 1.2.3.4",
    "::1",
    "::",
    "0:0:0:0:0:0:0:1",
    "2001:DB8::00:1",
    "fe80::1",
    "::ffff:1.2.3.4",
    "::1.2.3.4",
    "fe80::1%lo",
    "[::1]",
    b"127.0.0.1",
    b"::1",
    "127.0.0.1\0",
    None,
]
PORTS = [80, 0, 65535, None, "80", "0", b"443", "080", "", "99999", -1, 70000, True]
NUMERIC = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV


def real(*args):
    try:
        return socket.getaddrinfo(*args)
    except Exception as exc:
        return type(exc), exc.args


async def ours(loop, host, port, *hints, flags=0):
    names = ("family", "type", "proto", "flags")
    options = {"flags": flags} | dict(zip(names, hints, strict=False))
    try:
        return await loop.getaddrinfo(host, port, **options)
    except Exception as exc:
        return type(exc), exc.args


@pytest.mark.parametrize("host", HOSTS, ids=repr)
def test_equal_for_all_ports(run, loop, host):
    async def main():
        for port in PORTS:
            expected = real(host, port, 0, 0, 0, NUMERIC)
            assert await ours(loop, host, port, flags=NUMERIC) == expected, port

    run(main())


HINTS = list(
    itertools.product(
        [0, socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, 77],
        [0, socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, 99],
        [0, socket.IPPROTO_TCP, socket.IPPROTO_UDP, 132, 9999],
    )
)


@pytest.mark.parametrize("host", ["10.1.2.3", "2001:db8::5"])
@pytest.mark.parametrize("port", [80, None])
def test_equal_for_all_hints(run, loop, host, port):
    async def main():
        for family, type, proto in HINTS:
            for flags in (0, socket.AI_PASSIVE, NUMERIC, socket.AI_CANONNAME):
                expected = real(host, port, family, type, proto, flags)
                hints = (family, type, proto, flags)
                assert await ours(loop, host, port, *hints) == expected, hints

    run(main())


def test_members_are_those_of_the_socket_module(run, loop):
    infos = run(loop.getaddrinfo("127.0.0.1", 80))
    for family, type, _, _, address in infos:
        assert family is socket.AddressFamily.AF_INET
        assert isinstance(type, socket.SocketKind)
        assert address == ("127.0.0.1", 80)
        assert isinstance(address[0], str)


def test_result_is_a_list_of_its_own(run, loop):
    infos = run(loop.getaddrinfo("127.0.0.1", 80))
    infos.clear()
    assert run(loop.getaddrinfo("127.0.0.1", 80))


def test_literals_need_no_thread(monkeypatch):
    def refuse(self):
        raise AssertionError("a thread was started")

    loop = aioloop.new_event_loop()
    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert loop.run_until_complete(loop.getaddrinfo("127.0.0.1", 80))
    assert loop.run_until_complete(loop.getaddrinfo("::1", "80"))
    monkeypatch.undo()
    loop.close()


def test_names_and_services_are_looked_up(run, loop):
    expected = socket.getaddrinfo("localhost", 80, type=socket.SOCK_STREAM)
    assert run(loop.getaddrinfo("localhost", 80, type=socket.SOCK_STREAM)) == expected
    try:
        expected = socket.getaddrinfo("127.0.0.1", "http")
    except socket.gaierror:
        pytest.skip("this machine knows no services")
    assert run(loop.getaddrinfo("127.0.0.1", "http")) == expected


def test_replaced_resolver_is_used(run, loop, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: ["mine"])
    assert run(loop.getaddrinfo("127.0.0.1", 80)) == ["mine"]


def test_debug_mode_logs_the_resolver(caplog):
    loop = aioloop.new_event_loop()
    loop.set_debug(True)
    with caplog.at_level("DEBUG", "asyncio"):
        loop.run_until_complete(loop.getaddrinfo("127.0.0.1", 80))
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    assert any("Get address info 127.0.0.1:80" in m for m in caplog.messages)


def test_audited(python):
    program = """\
import aioloop, sys
events = []
def hook(event, args):
    if event == "socket.getaddrinfo":
        events.append(args)
loop = aioloop.new_event_loop()
loop.run_until_complete(loop.getaddrinfo("127.0.0.1", 80))
sys.addaudithook(hook)
loop.run_until_complete(loop.getaddrinfo("127.0.0.1", 80, type=1))
loop.close()
assert ("127.0.0.1", 80, 0, 1, 0) in events, events
"""
    done = python("-c", program)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("arguments", [(), ("127.0.0.1",), ("a", 1, 2)])
def test_wrong_calls(loop, arguments):
    with pytest.raises(TypeError) as caught:
        loop.getaddrinfo(*arguments)
    other = asyncio.SelectorEventLoop()
    with pytest.raises(TypeError) as expected:
        other.getaddrinfo(*arguments)
    other.close()
    assert str(caught.value) == str(expected.value)


def test_many_different_hints_are_bounded(run, loop):
    async def main():
        for proto in range(300):
            assert await ours(loop, "127.0.0.1", 80, 0, 0, proto) == real(
                "127.0.0.1", 80, 0, 0, proto
            )

    run(main())


@pytest.mark.skipif(sys.platform != "linux", reason="the C library's own answer")
def test_no_answer_is_kept_for_refused_hints(run, loop):
    for _ in range(2):
        with pytest.raises(socket.gaierror):
            run(loop.getaddrinfo("127.0.0.1", 80, family=socket.AF_INET6))
