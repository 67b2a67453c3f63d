"""The tests of ``test.test_asyncio`` that aioloop does not have to pass.

Only tests of the private parts of the stdlib's own loop belong here: each entry says
which part.  The list is strict: an entry whose test passes, or that matches no test
in a version that it claims, is an error.
"""

from typing import NamedTuple

FIRST = (3, 11)
LAST = (3, 15)


class Known(NamedTuple):
    """One test, or one class with all its tests, and why it may fail."""

    test: str
    reason: str
    since: tuple = FIRST
    until: tuple = LAST
    # The names of the variants to which the entry is confined, or empty for all.
    variants: tuple = ()

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

KNOWN = (
    Known(
        "test_tasks.CTask_CFuture_Tests.test_set_result_causes_invalid_state",
        TASK_IS_NO_FUTURE,
    ),
    Known(
        "test_tasks.CTask_CFuture_Tests.test_set_exception_causes_invalid_state",
        TASK_IS_NO_FUTURE,
    ),
    Known(
        BASE_EVENT_LOOP_TESTS + "test_not_implemented",
        "It asserts that BaseEventLoop is abstract: that _make_socket_transport and"
        " its like, which aioloop implements, raise NotImplementedError.",
    ),
    Known(
        BASE_EVENT_LOOP_TESTS + "test__run_once",
        "It appends to the list _scheduled, the stdlib loop's heap of timers, and"
        " reads the timeout that a mock in the place of _selector was called with.",
    ),
    Known(
        BASE_EVENT_LOOP_TESTS + "test__run_once_cancelled_event_cleanup",
        "It counts the cancelled timers that the stdlib loop keeps in its heap, by"
        " the thresholds of asyncio.base_events, in _timer_cancelled_count.",
    ),
    Known(
        BASE_EVENT_LOOP_TESTS + "test_run_forever_pre_stopped",
        "It asserts that a mock in the place of _selector is called with timeout 0.",
    ),
    Known(
        BASE_EVENT_LOOP_TESTS + "test_single_selecter_event_callback_after_stopping",
        "It makes a mock in the place of _selector return events for a mock in the"
        " place of _process_events.",
    ),
    Known(
        BASE_EVENT_LOOP_TESTS + "test_custom_run_forever_integration",
        "It relies on a mock in the place of _selector to return at once when nothing"
        " is scheduled, and counts the calls of a mock _process_events.",
        since=(3, 13),
    ),
    Known(
        "test_ssl.TestSSL.test_remote_shutdown_receives_trailing_data_on_slow_socket",
        "It reads _read_ready_cb of the stdlib's transport and puts a slow wrapper in"
        " the place of its _sock, both of which belong to that class alone.",
        since=(3, 14),
    ),
)


def entries_for(module, variant, version):
    """Return the entries that apply to a module and variant in a Python version."""
    return [
        entry
        for entry in KNOWN
        if entry.module == module
        and entry.since <= version <= entry.until
        and (not entry.variants or variant in entry.variants)
    ]
