"""The databases that rows of clients talk to: each is started once, by the parent.

The rows find them by the environment variable of their name. What is not on this
machine has none; `missing()` says so.
"""

import contextlib
import glob
import os
import pathlib
import pwd
import shlex
import shutil
import signal
import subprocess
import tempfile
import time

REDIS = "AIOLOOP_BENCHMARK_REDIS"  # the path of its socket
POSTGRES = "AIOLOOP_BENCHMARK_POSTGRES"  # the folder of its socket
START_SECONDS = 30
STOP_SECONDS = 10
STOP = signal.SIGINT  # without waiting until PostgreSQL's clients have gone


def program(name):
    """Return the path of a server's program, or None; Debian hides PostgreSQL's."""
    hidden = sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{name}"))
    return shutil.which(name) or (hidden[-1] if hidden else None)


def unprivileged():
    """Return the user to run PostgreSQL as, which refuses root, or None: this one."""
    if os.geteuid() != 0:
        return None
    for user in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(user).pw_name
    return None


def wait_for(path, process):
    deadline = time.monotonic() + START_SECONDS
    while not path.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{shlex.join(map(str, process.args))} does not start")
        time.sleep(0.01)


@contextlib.contextmanager
def running(command, path, **options):
    """Run a server, which makes its socket at `path`, while the block runs.

    It ends, where util-linux is, also if this process is killed.
    """
    if setpriv := shutil.which("setpriv"):
        command = [setpriv, "--pdeathsig", STOP.name.removeprefix("SIG"), *command]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options
    )
    try:
        wait_for(path, process)
        yield
    finally:
        process.send_signal(STOP)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def redis(folder, *options):
    path = folder / "redis"
    command = [program("redis-server"), "--port", "0", "--unixsocket", str(path)]
    command += ["--save", "", "--dir", str(folder), *options]
    with running(command, path):
        yield str(path)


@contextlib.contextmanager
def postgres(folder):
    user = unprivileged()
    data = folder / "data"
    options = {"user": user, "extra_groups": [], "cwd": folder} if user else {}
    subprocess.run(
        [program("initdb"), "-D", data, "-U", "postgres", "-A", "trust", "-N"],
        check=True,
        stdout=subprocess.DEVNULL,
        **options,
    )
    command = [program("postgres"), "-D", data, "-k", folder, "-F"]
    path = folder / ".s.PGSQL.5432"
    with running([*command, "-c", "listen_addresses="], path, **options):
        yield str(folder)


SERVICES = {
    REDIS: ("redis-server", redis),
    POSTGRES: ("postgres", postgres),
}


def missing(variable):
    """Return the name of the service's program if it is not here, or None."""
    name, _ = SERVICES[variable]
    return None if os.environ.get(variable) or program(name) else name


@contextlib.contextmanager
def started(variables):
    """Run the services, and set their variables, while the block runs."""
    with contextlib.ExitStack() as stack:
        for variable in variables:
            if os.environ.get(variable):
                continue  # The user has one that runs.
            folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
            if user := unprivileged():
                shutil.chown(folder, user)
            _, start = SERVICES[variable]
            os.environ[variable] = stack.enter_context(start(folder))
            stack.callback(os.environ.pop, variable)
        yield
