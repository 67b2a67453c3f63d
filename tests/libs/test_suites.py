"""Libraries' own test-suites on aioloop, as if it were asyncio's loop.

A start-up file installs aioloop, and a module called uvloop, which some libraries look
for, hands it out too. A test that fails on aioloop has to fail on asyncio's own loop
too, where it is run right after (IPv6 and names in the DNS are not everywhere). Where
the package index cannot be reached the test is skipped. `make suites` runs all of them,
and each whole on asyncio's own loop too: the outcomes are the table of docs/tests.md.
"""

from __future__ import annotations

import json
import os
import sys

import pytest

from tests.conftest import HARD
from tests.libs.suites import LIMIT, Suite

AIOHTTP_MODULES = [
    *["base_protocol", "client_functional", "client_session", "client_ws_functional"],
    *["connector", "leaks", "loop", "proxy_functional", "resolver", "run_app"],
    *["tcp_helpers", "test_utils", "web_app", "web_functional", "web_protocol"],
    *["web_request_handler", "web_runner", "web_sendfile_functional", "web_server"],
    *["web_websocket_functional", "worker"],
]

# Parts of redis-py's tests that need more than one server of Debian's: modules, a
# cluster, sentinels, TLS, a network with faults, a provider of credentials; or numpy.
REDIS_ELSEWHERE = [
    *["bloom.py", "cluster_transaction.py", "credentials.py", "json.py", "scenario"],
    *["search.py", "sentinel.py", "ssl.py", "timeseries.py", "vsets.py"],
]
REDIS_MARKS_ELSEWHERE = [
    *["onlycluster", "redismod", "ssl", "cp_integration", "multidb_integration"],
]
REDIS_FIXED_PORT = [
    ".py::test_connect_with_retries",
    "_pool.py::TestConnectionPool::test_multiple_connections",
    "_pool.py::TestConnectionPool::test_max_connections",
    "_pool.py::TestConnectionPool::test_reuse_previously_released_connection",
]

SUITES = [
    Suite(
        "anyio",
        "4.12.1",
        # The newest pytest does not take its fixtures of classes.
        needs=["trustme", "psutil", "pytest-mock", "blockbuster", "truststore"]
        + ["exceptiongroup", "hypothesis", "pytest<9"],
        # It has each test on other loops too.
        selection=["tests", "-k"]
        + ["asyncio and not uvloop and not eager and not trio"],
        rest="tests on trio and without a loop",
        at_least=600,
        # The oldest and the newest release: what may differ between them differs there.
        interpreters=[(3, 11), (3, 14)],
        package="src",
        always=True,
        left_out={
            "tests/test_to_thread.py::TestBlockingPortalProvider::test_single_thread": (
                "counts the process's threads, of which one of the test before may be "
                "about to end"
            ),
            "tests/test_sockets.py::TestTCPListener"
            "::test_tcp_listener_retry_after_partial_failure": (
                "makes the first of two attempts to find a port fail; the second one "
                "fails if anybody on this machine has that port"
            ),
        },
    ),
    Suite(
        "aiohttp",
        "3.14.5",
        needs=["pytest-mock", "trustme", "blockbuster", "freezegun", "proxy.py"]
        + ["coverage"],
        selection=[f"tests/test_{name}.py" for name in AIOHTTP_MODULES],
        options=["-o", "addopts=", "-p", "no:anyio"]
        + ["-m", "not dev_mode and not internal"],
        rest="modules that use a loop little; tests of aiohttp's own debug mode",
        at_least=1000,
        interpreters=[(3, 14)],
        package="aiohttp",
    ),
    Suite(
        "aioquic",  # QUIC: datagrams both ways
        "1.7.2",
        needs=[],
        selection=["tests"],
        at_least=600,
        interpreters=[(3, 14)],
    ),
    Suite(
        "tornado",
        "6.6.1",
        needs=[],
        selection=["tornado/test"],
        options=["-o", "python_files=*_test.py", "-p", "quiet_tornado"],
        at_least=1000,
        interpreters=[(3, 11), (3, 14)],
        left_out={
            "tornado/test/gen_test.py::RunnerGCTest::test_gc": (
                "fails on any loop if a full collection takes more than 0.2 s"
            ),
        },
    ),
    Suite(
        "uvicorn",
        "0.54.0",
        needs=["pytest-mock", "trustme", "cryptography", "httpx2", "a2wsgi"]
        + ["wsproto", "httptools", "websockets", "watchfiles", "python-dotenv"]
        + ["PyYAML", "httpx"],
        selection=["tests/protocols/test_websocket.py", "tests/test_server.py"]
        + ["tests/test_main.py", "tests/test_lifespan.py", "tests/test_ssl.py"]
        + ["tests/supervisors/test_signal.py", "-k", "not httptools and not zttp"],
        options=["-o", "addopts="],
        rest="two of its three HTTP parsers; what waits for changes of files; "
        "what uses no loop",
        at_least=100,
        interpreters=[(3, 14)],
        package="uvicorn",
    ),
    # The next four replace parts of the loop: its clock, its selector, its iteration.
    Suite(
        "looptime",
        "0.9",
        needs=["pytest-asyncio", "pytest-mock", "async-timeout"],
        selection=["tests"],
        at_least=70,
        interpreters=[(3, 11), (3, 14)],
        package="looptime",
    ),
    Suite(
        "aiotools",
        "2.2.4",
        needs=["pytest-asyncio"],
        selection=["tests"],
        at_least=150,
        interpreters=[(3, 14)],
        package="src",
    ),
    Suite(
        "async-solipsism",
        "0.10",
        needs=["pytest-asyncio"],
        selection=["test"],
        at_least=30,
        interpreters=[(3, 11), (3, 14)],
        package="src",
    ),
    Suite(
        "nest-asyncio2",
        "1.7.4",
        needs=["pytest-asyncio"],
        selection=["tests/nest_test.py"],
        at_least=6,
        interpreters=[(3, 11), (3, 14)],
    ),
    Suite(
        "pytest-asyncio",
        "1.5.0",
        needs=["hypothesis"],
        selection=["docs", "tests"],
        at_least=200,
        interpreters=[(3, 11), (3, 14)],
        package="pytest_asyncio",
    ),
    Suite(
        "websockets",
        "15.0.1",
        needs=["python-socks", "mitmproxy", "werkzeug"],
        selection=["tests/asyncio", "tests/legacy"],
        rest="what uses no loop",
        at_least=500,
        interpreters=[(3, 11), (3, 14)],
        package="src",
        # Of the tests' own limits, some of a few milliseconds.
        environment={"WEBSOCKETS_TESTS_TIMEOUT_FACTOR": "10"},
        debian=(
            "python-websockets",
            "8451495265af3e368f794c4dc15c99ce90c771d95560f542bff8c64b5455af3b",
        ),
    ),
    Suite(
        "httpcore",
        "1.0.9",
        needs=["anyio", "h2", "socksio", "pytest-httpbin", "pytest-trio"],
        selection=["tests", "--ignore=tests/_sync", "-k", "not trio"],
        rest="`tests/_sync`, which uses no loop; tests on trio",
        at_least=80,
        interpreters=[(3, 14)],
        package="httpcore",
    ),
    Suite(
        "httpx",
        "0.28.1",
        needs=["anyio", "h2", "socksio", "brotli", "zstandard", "click==8.1.8"]
        + ["pygments", "rich<14", "chardet==5.2.0", "trio", "trustme", "uvicorn"],
        selection=["tests", "-k", "not trio"],
        rest="tests on trio",
        at_least=1000,
        interpreters=[(3, 14)],
        package="httpx",
    ),
    Suite(
        "starlette",
        "1.10.0",
        needs=["itsdangerous", "jinja2", "opentelemetry-sdk", "python-multipart"]
        + ["pyyaml", "httpx", "httpx2[zstd]", "blockbuster", "trio"],
        selection=["tests", "-k", "not trio"],
        rest="tests on trio",
        at_least=500,
        interpreters=[(3, 14)],
        package="starlette",
    ),
    Suite(
        "janus",
        "2.0.0",
        needs=["pytest-asyncio", "pytest-benchmark"],
        selection=["tests"],
        options=["-o", "addopts="],
        at_least=100,
        interpreters=[(3, 11), (3, 14)],
        package="janus",
    ),
    Suite(
        "hypercorn",
        "0.18.0",
        needs=["httpx", "hypothesis", "mock", "pytest-asyncio", "pytest-trio", "trio"],
        selection=["tests", "--ignore=tests/trio", "-k", "not trio"],
        options=["-o", "addopts="],
        rest="tests on trio",
        at_least=100,
        interpreters=[(3, 14)],
        package="src",
    ),
    # The next ones talk to a real server, of Debian's, or are one for another program.
    Suite(
        "redis",
        "8.1.0",
        needs=["pytest-asyncio", "pybreaker", "typing-extensions", "cryptography"],
        selection=["tests/test_asyncio"]
        + [f"--ignore=tests/test_asyncio/test_{name}" for name in REDIS_ELSEWHERE]
        + ["-m", f"not {' and not '.join(REDIS_MARKS_ELSEWHERE)}"],
        options=["-o", "addopts=", "--redis-url={service}"],
        rest="what needs more than one server of Debian's: modules, a cluster, "
        "sentinels, TLS, a network with faults, a provider of credentials",
        at_least=1000,
        interpreters=[(3, 11)],
        package="redis",
        service="redis",
        left_out={
            f"tests/test_asyncio/test_connection{name}": (
                "connects to port 6379 whatever the address is"
            )
            for name in REDIS_FIXED_PORT
        },
    ),
    Suite(
        "asyncpg",
        "0.32.0",
        needs=["distro"],
        selection=["tests"],
        at_least=200,
        interpreters=[(3, 11), (3, 14)],
        package="asyncpg",
        service="postgres",
        environment={"PGHOST": "{service}", "PGUSER": "postgres"},
        left_out={
            "tests/test_connect.py::TestConnectionAttributes": (
                "starts a second server, which refuses to run as root"
            ),
        },
    ),
    Suite(
        "SQLAlchemy",  # for psycopg, whose own tests no archive has
        "2.1.9",
        needs=["psycopg[binary]", "greenlet"],
        selection=["test/ext/asyncio"],
        options=["-o", "addopts=", "-p", "no:logging", "-p", "no:warnings"]
        + ["--dburi", "postgresql+psycopg_async://postgres@/postgres?host={service}"],
        rest="what is not for asyncio; it runs on psycopg, whose own tests are in no "
        "archive",
        at_least=200,
        interpreters=[(3, 14)],
        service="postgres",
    ),
    Suite(
        "asyncssh",
        "2.24.1",
        needs=["bcrypt", "aiofiles", "typing-extensions", "ifaddr", "pyOpenSSL"],
        selection=["tests", "--ignore=tests/test_public_key.py"],
        rest="the formats of keys, a minute's work that uses no loop",
        at_least=1000,
        interpreters=[(3, 11)],
        package="asyncssh",
    ),
    Suite(
        "aiosmtpd",
        "1.4.6",
        needs=["pytest-mock", "setuptools<80"],
        selection=["aiosmtpd/tests"],
        options=["-o", "addopts=", "-W", "ignore::pytest.PytestConfigWarning"],
        at_least=500,
        interpreters=[(3, 14)],
    ),
    Suite(
        "ipykernel",  # and its kernels, which are processes, speak over zmq
        "7.4.0",
        needs=["pytest-asyncio", "psutil", "flaky", "ipyparallel"],
        selection=["tests"],
        options=["-o", "addopts=", "-o", "asyncio_default_fixture_loop_scope=function"],
        at_least=150,
        interpreters=[(3, 14)],
        package="ipykernel",
        left_out={
            "tests/test_subshells.py::test_run_concurrently_sequence": (
                "asks for an option of pytest-cov"
            ),
        },
    ),
]


@pytest.mark.timeout(2 * LIMIT)
@pytest.mark.skipif(
    HARD,
    reason="suites take each receive for a whole message",
)
@pytest.mark.parametrize("suite", SUITES, ids=[suite.name for suite in SUITES])
def test_what_passes_on_asyncio_passes_on_aioloop(suite, tmp_path):
    if sys.version_info[:2] not in suite.interpreters:
        pytest.skip("runs on " + " and ".join(f"3.{y}" for _, y in suite.interpreters))
    if not suite.always and not os.environ.get("AIOLOOP_SUITES"):
        pytest.skip("takes minutes: make suites")
    outcomes = tmp_path / "outcomes.json"
    ours = suite.run(True, outcomes)
    failed, passed = ours["failed"], ours["passed"]
    theirs = {"failed": {}, "passed": []}
    if os.environ.get("AIOLOOP_SUITES"):
        theirs = suite.run(False, outcomes)
    elif failed:
        theirs = suite.run(False, outcomes, *failed)
    only_ours = failed.keys() - theirs["failed"].keys()
    only_ours |= set(theirs["passed"]) - set(passed)
    assert not only_ours, "\n\n".join(
        f"{name}\n{failed.get(name, 'was not run')}" for name in sorted(only_ours)
    )
    assert len(passed) > suite.at_least, ours["failed"]
    if os.environ.get("AIOLOOP_SUITES"):
        keep(suite, ours, theirs)


def keep(suite, ours, theirs):
    """Write down what the table of docs/tests.md says of a suite."""
    record = suite.record()
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps({"aioloop": ours, "asyncio": theirs}))
