"""aioloop in the place of uvloop: for programs that ask for that by name."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import pickle
import re
import sys

import pytest

import aioloop
from aioloop import _install
from tests.conftest import PACKAGE_PARENT

OURS = "Loop aioloop._loop"


@pytest.fixture
def uvloop():
    """Install aioloop as uvloop for one test, and return that uvloop."""
    modules, finders = known(), list(sys.meta_path)
    aioloop.install(as_uvloop=True)
    yield importlib.import_module("uvloop")
    aioloop.uninstall()
    assert known() == modules
    assert sys.meta_path == finders


def known():
    return {
        name: module for name, module in sys.modules.items() if "uvloop" in name[:6]
    }


async def kind_of_loop():
    return type(asyncio.get_running_loop())


@pytest.fixture
def another_uvloop(tmp_path):
    """Write a package that stands for the uvloop that is installed already."""
    package = tmp_path / "installed" / "uvloop"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("from .loop import Loop\n__version__ = '1'\n")
    (package / "loop.py").write_text("class Loop: pass\n")
    return str(package.parent)


# The module.


def test_its_names_are_those_of_uvloop(uvloop):
    expected = {"new_event_loop", "run", "install"}
    if _install.policies_exist():
        expected.add("EventLoopPolicy")
        assert uvloop.EventLoopPolicy is aioloop.EventLoopPolicy
    assert set(uvloop.__all__) == expected
    assert uvloop.Loop is aioloop.Loop
    assert re.fullmatch(r"\d+\.\d+\.\d+", uvloop.__version__)
    assert importlib.import_module("uvloop.loop").Loop is aioloop.Loop
    with pytest.raises(AttributeError, match="module 'uvloop' has no attribute 'x'"):
        uvloop.x  # noqa: B018
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'uvloop\.x'"):
        importlib.import_module("uvloop.x")


def test_it_is_an_ordinary_module(uvloop):
    spec = importlib.util.find_spec("uvloop")
    assert (spec.name, spec.origin) == ("uvloop", uvloop.__file__)
    assert uvloop.__name__ == uvloop.__package__ == "uvloop"
    assert importlib.reload(uvloop) is uvloop
    assert pickle.loads(pickle.dumps(uvloop.new_event_loop)) is aioloop.new_event_loop


def test_new_event_loop(uvloop):
    loop = uvloop.new_event_loop()
    assert type(loop) is uvloop.Loop is aioloop.Loop
    assert isinstance(loop, importlib.import_module("uvloop.loop").Loop)
    loop.close()


def test_the_classes_of_its_objects(uvloop, loop, run):
    classes = importlib.import_module("uvloop.loop")

    async def main():
        server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        assert isinstance(server, classes.Server)
        assert isinstance(server.sockets[0], classes.PseudoSocket)
        reader, writer = await asyncio.open_connection(host, port)
        assert isinstance(writer.transport, classes.TCPTransport)
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
        server.close()
        endpoint, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, ("127.0.0.1", 0)
        )
        assert isinstance(endpoint, classes.UDPTransport)
        endpoint.close()
        assert isinstance(loop.call_soon(int), classes.Handle)
        timer = loop.call_later(60, int)
        assert isinstance(timer, classes.TimerHandle)
        timer.cancel()

    run(main())


# uvloop.run()


def test_run(uvloop, debug):
    async def main():
        loop = asyncio.get_running_loop()
        return type(loop), loop.get_debug()

    assert uvloop.run(main(), debug=debug) == (aioloop.Loop, debug)


def test_run_takes_any_awaitable(uvloop):
    class Awaitable:
        def __await__(self):
            yield from asyncio.sleep(0, "awaited").__await__()
            return "awaited"

    assert uvloop.run(Awaitable()) == "awaited"


def test_run_uses_the_loop_factory(uvloop):
    class Special(uvloop.Loop):
        pass

    assert uvloop.run(kind_of_loop(), loop_factory=Special) is Special
    assert uvloop.run(kind_of_loop(), loop_factory=None) is aioloop.Loop


def test_run_refuses_another_loop(uvloop):
    coro = kind_of_loop()
    with pytest.raises(TypeError, match=r"uvloop\.run\(\) uses a non-uvloop event"):
        uvloop.run(coro, loop_factory=asyncio.SelectorEventLoop)
    coro.close()


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
def test_run_inside_a_running_loop(uvloop):
    async def main():
        coro = kind_of_loop()
        with pytest.raises(RuntimeError, match="cannot be called from a running event"):
            uvloop.run(coro)
        coro.close()

    uvloop.run(main())


# install() and uninstall()


def test_install_alone_leaves_uvloop_alone(another_uvloop, python):
    code = """if True:
        import aioloop
        aioloop.install()
        import uvloop
        print(uvloop.__version__)
    """
    for env in ({}, {"AIOLOOP_AS_UVLOOP": ""}, {"AIOLOOP_AS_UVLOOP": "0"}):
        path = {"PYTHONPATH": path_with(another_uvloop)}
        assert python("-c", code, env={**env, **path}).stdout == "1\n"


def path_with(folder):
    return f"{folder}:{PACKAGE_PARENT}"


def test_what_was_imported_before_comes_back(another_uvloop, python):
    code = """if True:
        import sys, uvloop as theirs, uvloop.loop as submodule
        import aioloop
        aioloop.install()
        import uvloop
        print(uvloop is theirs)
        aioloop.install(as_uvloop=True)
        aioloop.install(as_uvloop=True)
        import uvloop.loop
        print(uvloop is theirs, uvloop.Loop is uvloop.loop.Loop is aioloop.Loop)
        aioloop.uninstall()
        import uvloop
        print(uvloop is theirs, sys.modules["uvloop.loop"] is submodule)
        aioloop.uninstall()
    """
    done = python("-c", code, env={"PYTHONPATH": path_with(another_uvloop)})
    assert (done.stdout, done.stderr) == ("True\nFalse True\nTrue True\n", "")


def test_uninstall_leaves_what_was_imported_later(monkeypatch):
    sentinel = object()
    aioloop.install(as_uvloop=True)
    monkeypatch.setitem(sys.modules, "uvloop", sentinel)
    aioloop.uninstall()
    assert sys.modules["uvloop"] is sentinel


def test_it_stays_when_the_loop_is_installed_anew(uvloop):
    slot = _install._Policy()
    if slot.exists():
        ours = slot.get()
        slot.set(None)
        assert asyncio.run(kind_of_loop()) is not aioloop.Loop
        uvloop.install()
        assert slot.get() is not ours
    assert asyncio.run(kind_of_loop()) is aioloop.Loop
    assert importlib.import_module("uvloop") is uvloop


PROGRAMS = {
    "install": "uvloop.install(); asyncio.run(main())",
    "run": "uvloop.run(main())",
    "factory": "with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner: "
    "runner.run(main())",
    "class": "loop = uvloop.Loop(); loop.run_until_complete(main()); loop.close()",
    "policy": "asyncio.set_event_loop_policy(uvloop.EventLoopPolicy()); "
    "asyncio.run(main())",
}


@pytest.mark.parametrize("way", PROGRAMS)
@pytest.mark.parametrize("start", ["option", "install", "environment"])
@pytest.mark.parametrize("installed", [False, True], ids=["without", "beside"])
def test_a_program_for_uvloop(way, start, installed, another_uvloop, python):
    if way == "policy" and not _install.policies_exist():
        pytest.skip("asyncio of this Python has no event loop policies")
    code = f"""if True:
        import asyncio, uvloop
        async def main():
            loop = asyncio.get_running_loop()
            print(type(loop).__name__, type(loop).__module__)
            print(isinstance(loop, uvloop.Loop))
        {PROGRAMS[way]}
    """
    arguments = ["-c", code]
    env = {"PYTHONPATH": path_with(another_uvloop)} if installed else {}
    if start == "option":
        arguments = ["-m", "aioloop", "--as-uvloop", *arguments]
    elif start == "environment":
        env["AIOLOOP_AS_UVLOOP"] = "1"
        arguments = ["-c", "import aioloop; aioloop.install()\n" + code]
    else:
        start = "import aioloop; aioloop.install(as_uvloop=True)\n"
        arguments = ["-c", start + code]
    # asyncio's own word about policies.
    ignored = ["-W", "ignore:'asyncio.set_event_loop_policy':DeprecationWarning"]
    done = python("-W", "error", *ignored, *arguments, env=env)
    assert (done.stdout, done.stderr) == (f"{OURS}\nTrue\n", "")


def test_processes_of_a_pool(python, tmp_path):
    (tmp_path / "program.py").write_text(
        """
import asyncio, concurrent.futures, multiprocessing
import aioloop
aioloop.install(as_uvloop=True)
import uvloop

async def kind():
    return type(asyncio.get_running_loop()).__name__

def run(_):
    return uvloop.run(kind())

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        print(list(pool.map(run, range(2))))
"""
    )
    done = python("-W", "error", "program.py")
    assert (done.stdout, done.stderr) == ("['Loop', 'Loop']\n", "")


def test_the_option_counts_for_children_that_install(python):
    code = """if True:
        import subprocess, sys
        subprocess.run([sys.executable, "-c", '''if True:
            import aioloop
            aioloop.install()
            import uvloop
            print(uvloop.Loop is aioloop.Loop)
            aioloop.install(as_uvloop=False)
        '''], check=True)
    """
    done = python("-m", "aioloop", "--as-uvloop", "-c", code)
    assert (done.stdout, done.stderr) == ("True\n", "")
