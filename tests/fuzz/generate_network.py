"""Network programs drawn by lot."""

import random

PACES = ("turns", "turns", "tick", "tick", "timer")
TEXTS = (b"", b"a", b"ab\n", b"one\ntwo\n", b"x" * 30, b"x" * 70 + b"\n", b"end\nrest")
SIZES = (0, 1, 3, 10, 17, 64, 65, 300)
LARGE = (5000, 9000, 20000)
RAISED = ("Odd", "Odd", "ValueError", "KeyboardInterrupt", "CancelledError")
EVENTS = {
    "end": ("made", "data", "data", "eof", "paused", "resumed", "lost"),
    "udp": ("made", "datagram", "datagram", "error", "lost"),
    "watch": ("data", "eof", "writable", "lost"),
}
# The kinds of actors, each with the operations that make and use one.
MAKES = {
    "end": ("connect", "connect", "connect", "read_pipe", "write_pipe"),
    "server": ("serve",),
    "stream": ("stream",),
    "sock": ("socket",),
    "udp": ("datagrams",),
    "watch": ("watch",),
}
USES = {
    "end": (
        *("write", "write", "writelines", "write_eof", "can_write_eof", "close"),
        *("abort", "pause_reading", "resume_reading", "limits", "look"),
        *("set_protocol", "soon"),
    ),
    "server": ("client", "client", "client", "loop_client", "server"),
    "stream": ("stream_do", "stream_do", "stream_do", "cancel"),
    "sock": ("socket_do", "socket_do", "socket_do", "cancel", "dial"),
    "udp": ("sendto", "sendto", "datagram", "peer_sends", "peer_sends"),
    "watch": (
        *("add_reader", "add_reader", "remove_reader", "add_writer"),
        *("remove_writer", "watch_send", "watch_close"),
    ),
}
PEER = (
    *("peer_send",) * 5,
    *("peer_read", "peer_read", "peer_shutdown", "peer_close", "peer_reset"),
)
THREADS = ("job", "end_job", "end_job", "cancel_job", "from_thread")
SIGNALS = ("handle_signal", "signal", "signal", "ignore_signal")
CHILDREN = (
    *("status", "communicate", "lines", "cancelled", "shell", "protocol", "missing"),
)


class Generator:
    def __init__(self, seed):
        self.random = random.Random(seed)
        # A full pipe or socket is filled by every program in the same portions.
        self.full = self.random.random() < 0.3
        self.pace = self.random.choice(PACES)

    def program(self):
        random = self.random
        kinds = random.sample(list(MAKES), random.choice((1, 1, 1, 2, 2, 3)))
        extra = random.choice(((), (), THREADS, SIGNALS))
        phases = []
        for kind in kinds:
            phases.append(self.operation(random.choice(MAKES[kind]), kind))
        for _ in range(random.choice((6, 12, 20, 30))):
            kind = random.choice(kinds)
            lot = random.random()
            if lot < 0.1:
                name = random.choice(MAKES[kind])
            elif lot < 0.45:
                name = random.choice(PEER)
            elif lot < 0.6 and extra:
                name = random.choice(extra)
            elif lot < 0.62:
                name = random.choice(
                    ("set_debug", "coroutine_from_thread", "log", "log")
                )
            else:
                name = random.choice(USES[kind])
            phases.append(self.operation(name, kind))
        if random.random() < 0.06:
            phases.insert(
                random.randrange(len(phases)),
                ("child", random.choice(CHILDREN), self.text()),
            )
        kind = "network" if not self.full else "network, filled"
        return {"kind": kind, "pace": self.pace, "phases": phases}

    def operation(self, name, kind):
        return name, *getattr(self, f"draw_{name}")(kind)

    # --- parts ----------------------------------------

    def number(self):
        return self.random.choice((-1, -1, -1, -2, 0, 1, 2))

    def me(self, inner):
        """Return whom a callback's operation is for: itself mostly."""
        if inner and self.random.random() < 0.9:
            return None
        return self.number()

    def size(self):
        if self.full and self.random.random() < 0.3:
            return self.random.choice(LARGE)
        return self.random.choice(SIZES)

    def sizes(self):
        return tuple(self.size() for _ in range(self.random.choice((0, 1, 2, 3))))

    def text(self):
        return self.random.choice(TEXTS)

    def protocol(self):
        return self.random.choice(("plain", "plain", "buffered"))

    def scripts(self, kind):
        """Return what an actor does at its events."""
        random = self.random
        scripts = []
        for _ in range(random.choice((0, 1, 1, 2, 3))):
            event = random.choice(EVENTS[kind])
            at = random.randrange(2) if event == "eof" else random.choice((1, 5, 40))
            scripts.append((event, at, self.body(kind)))
        return scripts

    def body(self, kind):
        """Return what is done in a callback, of which an actor's own is the most."""
        random = self.random
        body = []
        for _ in range(random.choice((1, 1, 2, 3))):
            lot = random.random()
            if lot < 0.06:
                body.append(("raise", random.choice(RAISED)))
            elif lot < 0.1 and kind != "udp":
                # docs/differences.md: several datagrams come in one iteration.
                body.append((random.choice(("soon", "later")), self.plain_body(kind)))
            else:
                body.append(self.inner(kind))
        return body

    def plain_body(self, kind):
        return [self.inner(kind) for _ in range(self.random.choice((1, 1, 2)))]

    def inner(self, kind):
        names = {
            "end": USES["end"][:11],
            "udp": ("sendto", "datagram"),
            "watch": USES["watch"],
        }[kind]
        name = self.random.choice(names)
        return name, *getattr(self, f"draw_{name}")(kind, True)

    # --- what operations are told ----------------------------------------

    def draw_connect(self, kind):
        how = self.random.choice(("pair", "unix", "tcp", "accepted"))
        if self.full:
            how = self.random.choice(("pair", "unix"))
        return how, self.protocol(), self.full, self.scripts("end")

    def draw_read_pipe(self, kind):
        return (self.scripts("end"),)

    draw_write_pipe = draw_read_pipe

    def draw_serve(self, kind):
        random = self.random
        protocol = random.choice(("plain", "buffered", "stream"))
        how = random.choice(("tcp", "unix"))
        if protocol == "stream":
            scripts = [("data", 0, self.stream_body())]
        else:
            scripts = self.scripts("end")
        return how, protocol, random.random() < 0.8, scripts

    def draw_client(self, kind):
        return (self.number(),)

    draw_dial = draw_client
    draw_end_job = draw_client
    draw_cancel_job = draw_client
    draw_cancel = draw_client
    draw_signal = draw_client
    draw_ignore_signal = draw_client

    def draw_loop_client(self, kind):
        return self.number(), self.scripts("end")

    def draw_server(self, kind):
        what = (
            *("look", "close", "close", "wait_closed", "start_serving"),
            *("close_clients", "abort_clients", "serve_forever"),
        )
        return self.number(), self.random.choice(what)

    def draw_write(self, kind, inner=False):
        return self.me(inner), self.size()

    def draw_writelines(self, kind, inner=False):
        return self.me(inner), self.sizes()

    def draw_close(self, kind, inner=False):
        return (self.me(inner),)

    draw_write_eof = draw_close
    draw_can_write_eof = draw_close
    draw_abort = draw_close
    draw_pause_reading = draw_close
    draw_resume_reading = draw_close
    draw_look = draw_close
    draw_remove_reader = draw_close
    draw_remove_writer = draw_close
    draw_watch_close = draw_close

    def draw_limits(self, kind, inner=False):
        high = self.random.choice((None, 0, 10, 100, 6000))
        return self.me(inner), high, self.random.choice((None, None, 0, 5, 50))

    def draw_set_protocol(self, kind):
        return self.number(), self.protocol(), self.scripts("end")

    def draw_soon(self, kind):
        return ([self.outer(kind)],)

    def draw_peer_send(self, kind):
        return self.number(), self.text()

    def draw_peer_sends(self, kind):
        return self.number(), self.sizes()

    def draw_peer_read(self, kind):
        return self.number(), self.random.choice((0, 0, 1, 20, 3000))

    draw_peer_shutdown = draw_client
    draw_peer_close = draw_client
    draw_peer_reset = draw_client

    def draw_stream(self, kind):
        how = self.random.choice(("pair", "tcp")) if not self.full else "pair"
        return how, self.random.choice((1, 16, 64, 2**16)), self.full

    def draw_stream_do(self, kind):
        return self.number(), self.stream_body()

    def stream_body(self):
        random = self.random
        body = []
        for _ in range(random.choice((1, 1, 2, 3, 4))):
            body.append(self.stream_operation())
        return body

    def stream_operation(self, inner=False):
        random = self.random
        name = random.choice(
            (
                *("read", "read", "readline", "readline", "readexactly", "readuntil"),
                *("lines", "drain", "wait_closed", "turn", "look", "write", "write"),
                *("writelines", "write_eof", "close", "in_no_time"),
            )
        )
        if name == "read":
            return name, random.choice((-1, 0, 1, 5, 100))
        if name == "readexactly":
            return name, random.choice((0, 1, 3, 20, 80))
        if name == "readuntil":
            return name, random.choice((b"\n", b"o", b"wo", b"zz"))
        if name in ("write", "writelines"):
            return name, None, self.size() if name == "write" else self.sizes()
        if name in ("write_eof", "close"):
            return name, None
        if name == "in_no_time":
            return name, [self.stream_operation(True)] if not inner else []
        return (name,)

    def draw_socket(self, kind):
        how = self.random.choice(("pair", "pair", "listens", "udp", "new"))
        return how, self.full

    def draw_socket_do(self, kind):
        body = [self.sock_operation() for _ in range(self.random.choice((1, 1, 2, 3)))]
        return self.number(), body

    def sock_operation(self, inner=False):
        random = self.random
        name = random.choice(
            (
                *("recv", "recv", "recv_into", "sendall", "sendall", "accept"),
                *("connect", "recvfrom", "recvfrom_into", "sendto", "turn"),
                *("in_no_time", "close"),
            )
        )
        if name in ("accept", "turn", "close"):
            return (name,)
        if name == "connect":
            return name, random.randrange(6)
        if name == "in_no_time":
            return name, [self.sock_operation(True)] if not inner else []
        if name in ("sendall", "sendto"):
            return name, self.size()
        return name, random.choice((1, 5, 100))

    def draw_datagrams(self, kind):
        return self.random.random() < 0.5, self.scripts("udp")

    def draw_sendto(self, kind, inner=False):
        return self.me(inner), self.random.choice(SIZES), self.random.random() < 0.5

    def draw_datagram(self, kind, inner=False):
        return self.me(inner), self.random.choice(("look", "close", "abort"))

    def draw_watch(self, kind):
        return (self.scripts("watch"),)

    def draw_add_reader(self, kind, inner=False):
        return self.me(inner), self.random.choice((1, 4, 100))

    def draw_add_writer(self, kind, inner=False):
        return self.me(inner), self.random.choice((0, 1, 3))

    def draw_watch_send(self, kind, inner=False):
        return self.me(inner), self.random.choice(SIZES)

    def draw_job(self, kind):
        how = self.random.choice(("default", "default", "own", "to_thread"))
        return how, self.random.random() < 0.3

    def draw_from_thread(self, kind):
        if kind not in ("end", "udp", "watch"):
            return ([[("log", 1)], [("log", 2)]],)
        bodies = [[self.outer(kind)] for _ in range(self.random.choice((1, 2)))]
        return (bodies,)

    def outer(self, kind):
        names = {"end": USES["end"][:11], "udp": ("sendto",), "watch": USES["watch"]}
        name = self.random.choice(names[kind])
        return name, *getattr(self, f"draw_{name}")(kind, False)

    def draw_coroutine_from_thread(self, kind):
        return self.random.randrange(6), self.random.randrange(10)

    def draw_handle_signal(self, kind):
        return self.random.randrange(2), self.draw_from_thread(kind)[0][0]

    def draw_set_debug(self, kind):
        return (self.random.random() < 0.5,)

    def draw_log(self, kind):
        return (self.random.randrange(100),)
