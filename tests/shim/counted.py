"""The tests of the network that rest on what one system call does, and why each does.

Above shim.c (``suite.py``) they are left out: their promise is the kernel's on a quiet
machine, and not the loop's. A name is a pattern of pytest's ids. Tests that the hard
build leaves out for the same reason are left out, too, and say so themselves.
"""

ONE_CALL = "It compares all bytes with those that one system call has moved."
AT_ONCE = "It expects of the first call what a call that was refused says later."
IN_TIME = (
    "It takes its two writes to be less than 0.3 ms apart; a second write after that is"
    " sent at once."
)
ALL_EVENTS = "It takes the events that are there for those of one epoll_wait."
PAUSED_LATE = (
    "It takes all that was sent before TLS begins to be received in one call: a reader"
    " that is full before leaves the rest in the socket, where TLS meets it."
)
NEVER_READY = (
    "It accepts from a socket that does not listen: a kernel refuses that at once, and"
    " never says 'not now', after which nothing comes."
)

STREAM = "tests/unit/test_stream.py::"
SOCKOPS = "tests/unit/test_sockops.py::"

TESTS = {
    STREAM + "test_what_shows_the_buffer_sends_it_first*": ONE_CALL,
    STREAM + "test_many_pieces_do_not_wait*": ONE_CALL,
    STREAM + "test_writes_outside_of_the_loop_do_not_wait*": ONE_CALL,
    STREAM + "test_writes_of_one_step_leave_together*": IN_TIME,
    STREAM + "test_one_error_for_all_writes_of_a_step*": AT_ONCE,
    SOCKOPS + "test_recv_of_what_is_there_takes_one_step*": AT_ONCE,
    SOCKOPS + "test_send_by_hand*": AT_ONCE,
    SOCKOPS + "test_recv_into[*": ONE_CALL,
    SOCKOPS + "test_recv_into_does_not_hold*": ONE_CALL,
    SOCKOPS + "test_cancelled_sendfile_leaves*": AT_ONCE,
    "tests/unit/test_tls.py::test_a_reader_is_full_when*paused]": PAUSED_LATE,
    "tests/unit/test_fds.py::test_events_run_in_the_order*": ALL_EVENTS,
    "tests/parity/test_transports.py::*[*reset_while_paused_then_write*]": AT_ONCE,
    "tests/parity/test_sock.py::test_odd_arguments[accept]": NEVER_READY,
}
