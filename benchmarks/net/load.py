"""Compiles the programs in C when they are needed, and puts load on a server."""

import functools
import http.client
import json
import os
import pathlib
import re
import ssl
import subprocess
import tempfile
import time

from ..process import ROOT
from . import rows

FOLDER = ROOT / "build" / "benchmarks"
COMPILE_LIMIT = 60
# How much longer than its sample the load may take.
GRACE_SECONDS = 15
WARM_UP_REQUESTS = 200
WARM_UP_SHARE = 0.25
WRK_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}


class LoadError(Exception):
    """The server gave no or wrong answers, or none in time; the text says which."""


@functools.cache
def program(name):
    """Return the path of a program, compiled from `name`.c if that is newer."""
    source = pathlib.Path(__file__).with_name(f"{name}.c")
    binary = FOLDER / name
    if binary.exists() and binary.stat().st_mtime > source.stat().st_mtime:
        return str(binary)
    FOLDER.mkdir(parents=True, exist_ok=True)
    compiler = os.environ.get("CC", "cc").split()
    with tempfile.TemporaryDirectory(dir=FOLDER) as place:
        made = os.path.join(place, name)
        subprocess.run(
            [*compiler, "-O2", "-std=c11", "-Wall", "-Wextra", "-o", made, source],
            check=True,
            timeout=COMPILE_LIMIT,
        )
        os.replace(made, binary)
    return str(binary)


def server_cpu(pid):
    """Return the CPU seconds that a process with all its threads has used.

    This is the clock that clock_getcpuclockid() names in C; it counts nanoseconds.
    """
    return time.clock_gettime((~pid << 3) | 2)


def run(command, limit):
    """Return what a command prints; raise LoadError if it fails or takes too long."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        raise LoadError(f"the load takes more than {limit:.0f} s") from None
    if done.returncode != 0 and not done.stdout.startswith("{"):
        raise LoadError(f"{command[0]}: {(done.stderr or done.stdout).strip()[-200:]}")
    return done.stdout


def generate(row, address, pid, seconds):
    """Return a sample by the generator in C."""
    command = [program("load"), row.load, address, str(row.size), str(row.connections)]
    command += [str(seconds * WARM_UP_SHARE), str(seconds), str(pid)]
    sample = json.loads(run(command, seconds + GRACE_SECONDS))
    if "error" in sample:
        raise LoadError(sample["error"])
    return sample


def tls_context():
    """Return a client's context: nobody vouches for the certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def connection_to(address, tls):
    """Return an HTTP connection."""
    if not tls:
        return http.client.HTTPConnection(address, timeout=GRACE_SECONDS)
    return http.client.HTTPSConnection(
        address, timeout=GRACE_SECONDS, context=tls_context()
    )


def warm_up(address, tls):
    """Send a few HTTP requests over one connection."""
    connection = connection_to(address, tls)
    try:
        for _ in range(WARM_UP_REQUESTS):
            connection.request("GET", "/")
            response = connection.getresponse()
            response.read()
            if response.status != 200:
                raise LoadError(f"HTTP status {response.status}")
    except (OSError, http.client.HTTPException) as error:
        raise LoadError(f"warm-up: {error!r}") from None
    finally:
        connection.close()


def latency(output, share):
    """Return the seconds in which `share` percent of wrk's requests were answered."""
    found = re.search(rf"^\s+{share}%\s+([0-9.]+)(us|ms|s|m)$", output, re.MULTILINE)
    return float(found[1]) * WRK_UNITS[found[2]] if found else None


def wrk(row, address, pid, seconds):
    """Return a sample by wrk, whose shortest run is a second."""
    tls = row.load == rows.WRK_TLS
    warm_up(address, tls)
    duration = max(1, round(seconds))
    command = ["wrk", "--latency", "-t1", f"-c{row.connections}", f"-d{duration}s"]
    cpu = server_cpu(pid)
    url = f"{'https' if tls else 'http'}://{address}/"
    output = run([*command, url], duration + GRACE_SECONDS)
    cpu = server_cpu(pid) - cpu
    counted = re.search(r"(\d+) requests in ([0-9.]+)(ms|s|m),", output)
    if counted is None or counted[1] == "0":
        raise LoadError("wrk: no request was answered")
    if problem := re.search(r"(Socket errors|Non-2xx).*", output):
        raise LoadError(f"wrk: {problem[0]}")
    return {
        "requests": int(counted[1]),
        "seconds": float(counted[2]) * WRK_UNITS[counted[3]],
        "cpu": cpu,
        "p50": latency(output, 50),
        "p99": latency(output, 99),
        "lost": 0,
    }


def sample(row, address, pid, seconds):
    """Put load on a server and return what was counted."""
    load = wrk if row.load in (rows.WRK, rows.WRK_TLS) else generate
    return load(row, address, pid, seconds)
