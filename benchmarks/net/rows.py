"""What is measured: which server, which load, how many connections."""

import dataclasses

TCP = "tcp"
UNIX = "unix"
SIZES = {"128 B": 128, "1 KB": 1024, "10 KB": 10 * 1024, "100 KB": 100 * 1024}
# Modes of the load generator; WRK is the program of that name, WRK_TLS its https.
ECHO, UDP, CONNECT, PUSH, PULL = "echo", "udp", "connect", "push", "pull"
WRK, WRK_TLS = "wrk", "wrk-tls"
# Freed memory goes back to the kernel, and its pages are faulted in again with the
# next large buffer; unless glibc's malloc is told to keep it.
KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(512 << 20),
}

ROWS: dict[str, "Row"] = {}


@dataclasses.dataclass(frozen=True)
class Row:
    """One benchmark.

    `server` names a server of `server.py`, `floor` the kind of `floor.c` that does the
    same, or None; `load` is a mode of the generator; `size` is in bytes. A row that is
    `essential` is part of a quick run.
    """

    name: str
    server: str
    floor: str | None
    load: str
    size: int
    transport: str
    connections: int
    essential: bool
    environment: dict


def add(
    title,
    server,
    *,
    floor="echo",
    load=ECHO,
    size=1024,
    transport=TCP,
    connections=64,
    essential=False,
    keep_memory=False,
):
    """Add a row; its name is the title, the transport and the connections."""
    name = f"{title}, {transport}, {connections}"
    if keep_memory:
        name += ", memory kept"
    environment = KEEP_MEMORY if keep_memory else {}
    ROWS[name] = Row(
        name,
        server,
        floor,
        load,
        size,
        transport,
        connections,
        essential,
        environment,
    )


ESSENTIAL_ECHOES = {
    ("protocol", "128 B"),
    ("protocol", "1 KB"),
    ("protocol", "10 KB"),
    ("protocol", "100 KB"),
    ("buffered", "1 KB"),
    ("buffered", "10 KB"),
    ("8 writes", "1 KB"),
    ("streams", "1 KB"),
    ("streams", "10 KB"),
    ("readline", "1 KB"),
    ("sock_*", "1 KB"),
}


def add_echoes():
    for server in ("protocol", "buffered", "8 writes", "streams", "readline", "sock_*"):
        for label, size in SIZES.items():
            for transport in (TCP, UNIX):
                for connections in (64, 1):
                    usual = transport == TCP and connections == 64
                    add(
                        f"{server} {label}",
                        server,
                        size=size,
                        transport=transport,
                        connections=connections,
                        essential=usual and (server, label) in ESSENTIAL_ECHOES,
                    )
            if size > 1024:
                add(f"{server} {label}", server, size=size, keep_memory=True)


def add_others():
    for connections in (64, 1):
        many = connections == 64
        web = {"load": WRK, "connections": connections, "essential": many}
        add("HTTP, tiny server", "http", floor="http", **web)
        add("HTTP, uvicorn", "uvicorn", floor=None, **web)
        add("HTTP, uvicorn, idle threads", "uvicorn, idle threads", floor=None, **web)
        add("HTTP, aiohttp", "aiohttp", floor=None, **web)
        web["load"] = WRK_TLS
        add("HTTPS, tiny server", "https", floor=None, **web)
        add("HTTPS, streams", "https streams", floor=None, **web)
        add("HTTPS, uvicorn", "https uvicorn", floor=None, **web)
        for transport in (TCP, UNIX):
            add(
                "connect + echo + close",
                "protocol",
                load=CONNECT,
                size=128,
                transport=transport,
                connections=connections,
                essential=many and transport == TCP,
            )
        add(
            "datagrams 1 KB",
            "datagrams",
            floor="udp",
            load=UDP,
            transport="udp",
            connections=connections,
            essential=True,
        )
    for transport in (TCP, UNIX):
        for keep_memory in (False, True):
            bulk = {
                "transport": transport,
                "connections": 1,
                "essential": transport == TCP and not keep_memory,
                "keep_memory": keep_memory,
            }
            add("bulk in, per MiB", "sink", floor="sink", load=PUSH, **bulk)
            add("bulk out, per MiB", "source", floor="source", load=PULL, **bulk)


add_echoes()
add_others()
