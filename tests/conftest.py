"""Fixtures that every test may use.

A test that takes ``loop`` or ``debug`` runs twice: in debug mode and without. The
``loop`` fixture checks that the test leaves no file descriptor open.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import os
import signal
import socket
import ssl
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import aioloop

# The directory to put on PYTHONPATH so that a child process finds the same package.
PACKAGE_PARENT = Path(aioloop.__file__).absolute().parent.parent
LIMIT = 60
CERTIFICATE = Path(__file__).parent / "certificate.pem"
# The hard build makes rare things frequent (src/base/check.h), and so does tests/shim.
HARD = os.environ.get("AIOLOOP_FLAVOUR") in ("hard", "shim")
# Without what only Linux has: no timerfd, no sendfile.
PORTABLE = os.environ.get("AIOLOOP_FLAVOUR") == "portable"
# In a free-threaded build some things are deliberately otherwise, whether its GIL is on
# or off (src/README.md, "Without a GIL").
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


def needs_gil(otherwise: str) -> pytest.MarkDecorator:
    """Mark tests of what a free-threaded build does not do; say what it does."""
    return pytest.mark.skipif(
        FREE_THREADED, reason=f"in a free-threaded build {otherwise}"
    )


needs_corking = needs_gil("each write leaves at once")
needs_watchdog = needs_gil("no watchdog looks for stalls")
needs_lost_tasks = needs_gil("no task is called lost")
needs_shared_stacks = needs_gil("what is made outside a running loop shares no stack")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("filterwarnings", "error")
    # A shell starts background jobs with SIGINT ignored, and children inherit that;
    # the tests send it, to themselves and to programs.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module", autouse=True)
def collections_are_quick() -> None:
    """Leave out of garbage collections what was there before the module's tests.

    Most tests collect in full, which would go through thousands of collected tests and
    their reports: a tenth of a second each time, in the sanitizers' build a whole one.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def own_garbage() -> Iterator[None]:
    """Collect a test's garbage in the test itself, after its other fixtures.

    In the middle of a later test it would close descriptors, whose numbers that test
    may watch, and be reported there.
    """
    yield
    gc.collect()


def open_descriptors() -> set[int]:
    """Return the descriptors that are open, without the one used to look."""
    directory = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"
    found = {int(name) for name in os.listdir(directory)}
    return {fd for fd in found if _is_open(fd)}


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


@pytest.fixture(params=[False, True], ids=["release", "debug"])
def debug(request):
    """False and then True: the debug mode that the test's loop gets."""
    return request.param


def finish(loop):
    """Close a loop as asyncio.run() does."""
    pending = asyncio.all_tasks(loop)
    for task in pending:
        task.cancel()
    if pending:
        loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


@pytest.fixture
def loop(debug):
    """Yield a new aioloop loop; close it and look for leaked descriptors."""
    before = open_descriptors()
    loop = aioloop.new_event_loop()
    loop.set_debug(debug)
    yield loop
    if not loop.is_closed():
        finish(loop)
    gc.collect()
    leaked = open_descriptors() - before
    assert not leaked, f"descriptors left open: {sorted(leaked)}"


@pytest.fixture
def run(loop):
    """Return a function that runs a coroutine on ``loop`` with a time limit."""

    def run(coro, timeout=20):
        return loop.run_until_complete(asyncio.wait_for(coro, timeout))

    return run


@pytest.fixture
def thread():
    """Return a function that starts a thread, which is joined at the end."""
    threads = []

    def start(target, *args):
        started = threading.Thread(target=target, args=args)
        threads.append(started)
        started.start()
        return started

    yield start
    for started in threads:
        started.join(20)
        assert not started.is_alive()


@pytest.fixture
def thread_state():
    """Put back what a loop that is run twice at once cannot put back."""
    depth, hooks = sys.get_coroutine_origin_tracking_depth(), sys.get_asyncgen_hooks()
    yield
    sys.set_coroutine_origin_tracking_depth(depth)
    sys.set_asyncgen_hooks(*hooks)


def unused_number() -> int:
    """Return the number of no descriptor, too high for anything to get it by chance.

    The kernel gives out the lowest free number. Which that is changes at any moment
    with what other threads open and close (the stall report's reads /proc), and so a
    number does not come again because the test has closed it.
    """
    with open(os.devnull) as file:
        number = fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, 500)
    os.close(number)
    return number


def with_number(sock: socket.socket, number: int) -> socket.socket:
    """Give a blocking socket another number, and return its new object."""
    os.dup2(sock.fileno(), number, inheritable=False)
    sock.close()
    return socket.socket(fileno=number)


@contextlib.contextmanager
def refusing_address() -> Iterator[tuple[str, int]]:
    """Give a UDP address that answers "refused", and that nobody else can get.

    A connected socket takes datagrams from its peer only, which is itself here.
    """
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.connect(sock.getsockname())
        yield sock.getsockname()


def server_context() -> ssl.SSLContext:
    """Return a context of a TLS server with the tests' certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    return context


def client_context() -> ssl.SSLContext:
    """Return a context of a TLS client that trusts everybody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def anonymous_context(protocol: int) -> ssl.SSLContext:
    """Return a context for TLS without certificates; `protocol` is the side."""
    context = ssl.SSLContext(protocol)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.set_ciphers("AECDH:ADH:@SECLEVEL=0")
    except ssl.SSLError:
        pytest.skip("this OpenSSL has no anonymous ciphers")
    return context


def child_environment(**changes: str) -> dict[str, str]:
    """Return the environment for a child Python: nothing of ours but the package."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "PYTEST", "COVERAGE", "AIOLOOP"))
        and name not in ("CI", "BUILD_NUMBER", "COLUMNS")  # pytest writes more then
    }
    # Sanitizer and hard builds run the suite with these two; children need them too.
    for name in ("PYTHONMALLOC", "PYTHONHOME"):
        if name in os.environ:
            environment[name] = os.environ[name]
    environment.update(
        PYTHONPATH=str(PACKAGE_PARENT),
        PYTHONDONTWRITEBYTECODE="1",
        PYTHON_COLORS="0",
        NO_COLOR="1",
    )
    environment.update(changes)
    return environment


@pytest.fixture
def python(tmp_path):
    """Return a function that runs this Python in a child process, in tmp_path."""

    def python(*arguments, stdin=None, cwd=tmp_path, env=None, timeout=LIMIT):
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            cwd=cwd,
            env=child_environment(**(env or {})),
            timeout=timeout,
        )

    return python


@pytest.fixture
def module_command():
    """Return the command of ``python -m aioloop`` for programs started by hand."""
    return [sys.executable, "-m", "aioloop"]


@pytest.fixture
def child_env():
    """Return child_environment, for tests that start processes by hand."""
    return child_environment
