"""The tests of ``test.test_asyncio`` that aioloop does not have to pass.

Only tests of the private parts of the stdlib's own loop belong here: each entry says
which part.  The list is strict: an entry whose test passes, or that matches no test
in a version that it claims, is an error.

In the hard build a test that fails is run on the stdlib's loop too, whose calls meet
the same faults then (``worker.Faults``).  A test that counts bytes fails there as well
and needs no entry.  The few entries for that build are races: a test stops the loop at
a moment by which all is done only if each call moves all that there is.  They hold
above tests/shim too.
"""

import sysconfig
from typing import NamedTuple

FIRST = (3, 11)
LAST = (3, 15)
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


class Known(NamedTuple):
    """One test, or one class with all its tests, and why it may fail."""

    test: str
    reason: str
    since: tuple = FIRST
    until: tuple = LAST
    # The names of the variants to which the entry is confined, or empty for all.
    variants: tuple = ()
    # Whether it holds only where calls move a few bytes each: in the hard build, and
    # above tests/shim.
    hard: bool = False
    # Whether it holds in a free-threaded Python only.
    free_threaded: bool = False
    # Whether the test is a race: it may pass as well.
    sometimes: bool = False
    # Where one of these is asyncio's own (aioloop._layouts.OFF) the test passes.
    passes_without: tuple = ()
    # Only where one of these is.
    only_without: tuple = ()

    @property
    def module(self):
        return self.test.partition(".")[0]

    def matches(self, test):
        return test == self.test or test.startswith(self.test + ".")


BASE_EVENT_LOOP_TESTS = "test_base_events.BaseEventLoopTests."

TASK_IS_NO_FUTURE = (
    "It completes a task by aioloop.Future.set_result or set_exception, unbound. That"
    " is a TypeError here: aioloop.Task and aioloop.Future both derive from asyncio's"
    " C types and cannot derive from each other."
)

SLOW_SOCKET = (
    "It reads _read_ready_cb of the stdlib's transport and puts a slow wrapper in"
    " the place of its _sock, both of which belong to that class alone."
)
CLOSE_NOTIFY_IN_ONE_CALL = (
    "It stops the loop for good while the transport still has TLS's close_notify to"
    " send, and then joins a thread that waits for it."
)
ANSWER_IN_ONE_CALL = (
    "It stops the loop for good when its handler has called write(); an answer that was"
    " told 'not now' is never sent, and the connection is not closed."
)
ACCEPTED_AT_ONCE = (
    "It takes a connection for accepted one step after its client has it; one that is"
    " accepted later meets a server that has been closed."
)
REQUEST_IN_ONE_CALL = (
    "Its handler raises when it has read once; what it has not read by then makes the"
    " kernel reset the connection, and the client's wait_closed() says so."
)
OUTPUT_IN_ONE_CALL = (
    "It closes the pipe as soon as anything has been read from it, and compares that"
    " with all that the child has written."
)

KNOWN = (
    Known(
        "test_tasks.CTask_CFuture_Tests.test_set_result_causes_invalid_state",
        TASK_IS_NO_FUTURE,
        passes_without=("asyncio.Future",),
    ),
    Known(
        "test_tasks.CTask_CFuture_Tests.test_set_exception_causes_invalid_state",
        TASK_IS_NO_FUTURE,
        passes_without=("asyncio.Future",),
    ),
    Known(
        BASE_EVENT_LOOP_TESTS + "test_not_implemented",
        "It asserts that BaseEventLoop is abstract: that _make_socket_transport and"
        " its like, which aioloop implements, raise NotImplementedError.",
    ),
    Known(
        BASE_EVENT_LOOP_TESTS + "test_check_thread",
        "From another thread it turns debug mode on, which the loop does when it gets"
        " to it, and calls call_later() without debug mode, which is refused always:"
        " no GIL keeps the loop still.",
        free_threaded=True,
    ),
    Known(
        "test_ssl.TestSSL.test_remote_shutdown_receives_trailing_data_on_slow_socket",
        SLOW_SOCKET,
        since=(3, 13),  # 3.13.5, as the free-threaded one is
        until=(3, 13),
        free_threaded=True,
    ),
    Known(
        "test_ssl.TestSSL.test_remote_shutdown_receives_trailing_data_on_slow_socket",
        SLOW_SOCKET,
        since=(3, 14),
        passes_without=("asyncio.Transport", "socket.socket"),
    ),
    Known(
        "test_ssl.TestSSL.test_start_tls_client_reg_proto_1",
        CLOSE_NOTIFY_IN_ONE_CALL,
        hard=True,
        sometimes=True,
    ),
    Known(
        "test_ssl.TestSSL.test_start_tls_client_buf_proto_1",
        CLOSE_NOTIFY_IN_ONE_CALL,
        hard=True,
        sometimes=True,
    ),
    Known(
        "test_ssl.TestSSL.test_create_connection_memory_leak",
        CLOSE_NOTIFY_IN_ONE_CALL,
        hard=True,
        sometimes=True,
    ),
    Known(
        "test_events.EPollEventLoopTests.test_subprocess_exec",
        OUTPUT_IN_ONE_CALL,
        hard=True,
        sometimes=True,
    ),
    Known(
        "test_events.EPollEventLoopTests.test_subprocess_interactive",
        OUTPUT_IN_ONE_CALL,
        hard=True,
        sometimes=True,
    ),
    Known(
        "test_server.SelectorStartServerTests.test_start_server_1",
        ANSWER_IN_ONE_CALL,
        hard=True,
        sometimes=True,
    ),
    Known(
        "test_server.SelectorStartServerTests.test_start_unix_server_1",
        ANSWER_IN_ONE_CALL,
        hard=True,
        sometimes=True,
    ),
    Known(
        "test_server.TestServer2.test_wait_closed_basic",
        ACCEPTED_AT_ONCE,
        since=(3, 12),
        hard=True,
        sometimes=True,
    ),
    Known(
        "test_streams.StreamTests.test_unhandled_exception",
        REQUEST_IN_ONE_CALL,
        since=(3, 12),
        hard=True,
        sometimes=True,
    ),
    Known(
        "test_sendfile.EPollEventLoopTests"
        ".test_sendfile_close_peer_in_the_middle_of_receiving",
        "It stops the loop after the first read that follows sendfile and asserts that"
        " the transport has met the end of the stream; a read that is refused meets"
        " it in the next iteration.",
        hard=True,
        sometimes=True,
    ),
)


def entries_for(module, variant, version, hard=False, off=()):
    """Return the entries that apply to a module and variant in a Python version.

    *hard* says whether this is the hard build, *off* what is left to asyncio.
    """
    off = set(off)
    return [
        entry
        for entry in KNOWN
        if entry.module == module
        and entry.since <= version <= entry.until
        and (not entry.variants or variant in entry.variants)
        and (hard or not entry.hard)
        and (FREE_THREADED or not entry.free_threaded)
        and off.isdisjoint(entry.passes_without)
        and (not entry.only_without or not off.isdisjoint(entry.only_without))
    ]
