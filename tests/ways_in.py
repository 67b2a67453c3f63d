"""Do the README's ways in lead to an installed aioloop? One program for each of them.

`python ways_in.py` needs nothing but an installed aioloop, and uvicorn for the last
way; `.ci/bare` runs it where neither a compiler nor libev is.
"""

import asyncio
import importlib.util
import os
import subprocess
import sys
import tempfile
import textwrap
import urllib.request

LIMIT = 60
MAIN = """
import asyncio, warnings
async def main():
    await asyncio.sleep(0.001)
    loop = asyncio.get_running_loop()
    print(f"{type(loop).__module__.partition('.')[0]}.{type(loop).__name__}")
"""
PROGRAM = f"{MAIN}\nasyncio.run(main())\n"
APPLICATION = """
import asyncio
async def app(scope, receive, send):
    assert scope["type"] == "http"
    loop = type(asyncio.get_running_loop())
    name = f"{loop.__module__.partition('.')[0]}.{loop.__name__}"
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": name.encode()})
"""
WAYS = {
    "aioloop.run": f"{MAIN}\nimport aioloop; aioloop.run(main())",
    "asyncio.Runner(loop_factory=)": f"{MAIN}\nimport aioloop\n"
    "with asyncio.Runner(loop_factory=aioloop.new_event_loop) as runner:\n"
    "    runner.run(main())",
    "aioloop.install": f"import aioloop; aioloop.install()\n{PROGRAM}",
}
if sys.version_info >= (3, 12):
    WAYS["asyncio.run(loop_factory=)"] = (
        f"{MAIN}\nimport aioloop\n"
        "asyncio.run(main(), loop_factory=aioloop.new_event_loop)"
    )
if sys.version_info < (3, 16):
    WAYS["set_event_loop_policy"] = (
        textwrap.dedent("""\
        import asyncio, warnings, aioloop
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            asyncio.set_event_loop_policy(aioloop.EventLoopPolicy())
        """)
        + PROGRAM
    )


def run(*arguments, folder):
    """Run Python in a folder and return what it prints."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    if done.returncode != 0:
        raise AssertionError(done.stdout + done.stderr)
    return done.stdout.strip()


def under_uvicorn(folder):
    """Start uvicorn on a port that it takes itself, and ask its application."""
    command = ["-m", "uvicorn", "--loop", "aioloop:new_event_loop", "--port", "0"]
    server = subprocess.Popen(
        [sys.executable, *command, "application:app"],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        seen = ""
        for line in server.stderr:
            seen += line
            address = line.partition("running on ")[2].split(" ")[0]
            if address:
                break
        else:
            raise AssertionError(seen)
        with urllib.request.urlopen(address, timeout=LIMIT) as answer:
            return answer.read().decode()
    finally:
        server.terminate()
        server.stderr.close()
        server.wait(LIMIT)


def main():
    """Try all ways; return how many failed."""
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, text in (("program", PROGRAM), ("application", APPLICATION)):
            with open(os.path.join(folder, f"{name}.py"), "w") as file:
                file.write(text)
        for name, program in WAYS.items():
            results[name] = run("-c", program, folder=folder)
        for arguments in (["program.py"], ["-m", "program"], ["-c", PROGRAM]):
            name = " ".join(["python -m aioloop", *arguments]).partition("\n")[0]
            results[name] = run("-m", "aioloop", *arguments, folder=folder)
        if importlib.util.find_spec("uvicorn"):
            results["uvicorn --loop"] = under_uvicorn(folder)
        version = run("-m", "aioloop", "-V", folder=folder)
    failed = [name for name, loop in results.items() if loop != "aioloop.Loop"]
    for name in failed:
        print(f"{name}: {results[name]}")
    assert asyncio.run(asyncio.sleep(0, True))  # No way has changed this process.
    print(f"{version}: {len(results) - len(failed)} ways in, {len(failed)} failed")
    return len(failed)


if __name__ == "__main__":
    sys.exit(bool(main()))
