"""SSLProtocols whose attributes go away or raise while C looks at them (src/io/tls)."""

import asyncio
import gc

import pytest

from tests.conftest import client_context, server_context

LIMIT = 20


class Server(asyncio.Protocol):
    def __init__(self, meddle):
        self.meddle = meddle
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        if self.meddle is not None:
            meddle, self.meddle = self.meddle, None
            meddle(self.transport._ssl_protocol)
        self.transport.write(data)

    def connection_lost(self, exc):
        self.lost.set_result(exc)


def serve(loop, meddle):
    """Send three messages to a server that meddles at the first; return its reports."""
    reports = []
    loop.set_exception_handler(lambda loop, context: reports.append(context))

    async def main():
        protocols = []

        def make():
            protocols.append(Server(meddle))
            return protocols[-1]

        server = await loop.create_server(make, "127.0.0.1", 0, ssl=server_context())
        address = server.sockets[0].getsockname()
        reader, writer = await asyncio.open_connection(*address, ssl=client_context())
        try:
            for _ in range(3):
                writer.write(b"hello")
                await reader.readexactly(5)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.transport.abort()
        protocols[0].transport.abort()
        await protocols[0].lost
        server.close()

    loop.run_until_complete(asyncio.wait_for(main(), LIMIT))
    gc.collect()
    return reports


FLAGS = [
    "_app_reading_paused",
    "_app_protocol_is_buffer",
    "_app_writing_paused",
    "_ssl_reading_paused",
    "_ssl_writing_paused",
    "_incoming_high_water",
    "_outgoing_high_water",
]


@pytest.mark.parametrize("name", FLAGS)
def test_a_flag_leaves_while_its_truth_is_asked(loop, name):
    """Nobody but C holds the object then."""
    asked = []

    def meddle(protocol):
        original = getattr(protocol, name)

        class Flag:
            def __bool__(self):
                protocol.__dict__[name] = original
                gc.collect()
                asked.append(name)
                return bool(original)

            def __index__(self):
                return int(original)

            def __le__(self, other):
                return original <= other

            def __ge__(self, other):
                return original >= other

        protocol.__dict__[name] = Flag()

    assert serve(loop, meddle) == []
    assert asked == [name]


@pytest.mark.parametrize("name", ["_outgoing", "_write_backlog"])
def test_an_object_leaves_while_it_is_asked_what_it_holds(loop, name):
    asked = []

    def meddle(protocol):
        original = getattr(protocol, name)

        class Stand:
            def leave(self):
                protocol.__dict__[name] = original
                gc.collect()
                asked.append(name)

            def __len__(self):
                self.leave()
                return len(original)

            @property
            def pending(self):
                self.leave()
                return original.pending

            def read(self, *args):
                self.leave()
                return original.read(*args)

        protocol.__dict__[name] = Stand()

    assert serve(loop, meddle) == []
    assert asked == [name]
