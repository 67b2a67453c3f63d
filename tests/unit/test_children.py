"""``--children`` and ``--enable``: processes that nobody starts with -m aioloop."""

from __future__ import annotations

import os
import shutil
import site
import subprocess
import sys
from pathlib import Path

import pytest

import aioloop
from tests.conftest import LIMIT, PACKAGE_PARENT, child_environment

PACKAGE = PACKAGE_PARENT / "aioloop"
FOLDER = PACKAGE / "_children"

# Prints the module of the loop that asyncio makes.
LOOK = """
import asyncio
loop = asyncio.new_event_loop()
loop.close()
print(type(loop).__module__)
"""
OURS, THEIRS = "aioloop._loop\n", "asyncio.unix_events\n"

# Runs a program in a child of its own, whose output is its own too.
START = """
import subprocess, sys
done = subprocess.run([sys.executable, *sys.argv[1:]])
sys.exit(done.returncode)
"""


@pytest.fixture
def child(python):
    """Return a function that runs Python in a child of a program under --children."""

    def child(*arguments, env=None, options=("--children",)):
        return python("-m", "aioloop", *options, "-c", START, *arguments, env=env)

    return child


def said(done):
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


# Who gets the loop.


def test_a_child_gets_the_loop(child):
    assert said(child("-c", LOOK)) == OURS


def test_without_the_option_it_does_not(child):
    assert said(child("-c", LOOK, options=())) == THEIRS


def test_a_child_without_asyncio_imports_nothing_of_ours(child):
    code = "import sys; print(sorted(m for m in sys.modules if 'aioloop' in m))"
    assert said(child("-c", code)) == "['_aioloop_startup']\n"


def test_grandchildren_too(child):
    assert said(child("-c", START, "-c", LOOK)) == OURS
    assert said(child("-m", "aioloop", "--children", "-c", START, "-c", LOOK)) == OURS


def test_the_environment_variable_turns_it_off(child):
    assert said(child("-c", LOOK, env={"AIOLOOP": "0"})) == THEIRS
    assert said(child("-c", LOOK, env={"AIOLOOP": "1"})) == OURS
    code = "import os; os.environ['AIOLOOP'] = '0'\n" + START
    assert said(child("-c", code, "-c", LOOK)) == THEIRS


def test_a_child_that_imports_aioloop_first(child):
    code = "import aioloop; aioloop.install"
    assert said(child("-c", code + LOOK)) == OURS
    # What it undoes is undone.
    assert said(child("-c", "import aioloop; aioloop.uninstall()" + LOOK)) == THEIRS


def test_old_programs_get_a_loop_as_in_the_parent(child):
    code = """import asyncio
loop = asyncio.get_event_loop()
print(type(loop).__module__)
loop.close()
"""
    assert said(child("-c", code)) == OURS


def test_asyncio_imported_in_a_thread(child):
    code = f"""import threading
threads = [threading.Thread(target=exec, args=({LOOK!r}, {{}})) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join({LIMIT})
"""
    assert said(child("-c", code)) == 4 * OURS


@pytest.mark.parametrize("first", ["", "import asyncio; "])
def test_children_of_a_program_that_asks_for_uvloop(first, child):
    code = f"{first}import uvloop; print(uvloop.new_event_loop.__module__)"
    done = child("-c", code, options=("--as-uvloop", "--children"))
    assert said(done).startswith("aioloop.")


POOL = """
import asyncio, multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor

async def kind(number):
    await asyncio.sleep(0)
    return number, type(asyncio.get_running_loop()).__module__

def work(number):
    return asyncio.run(kind(number))

async def main(method):
    context = multiprocessing.get_context(method)
    loop = asyncio.get_running_loop()
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        done = [loop.run_in_executor(pool, work, number) for number in range(3)]
        print(*await asyncio.gather(*done))

if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_workers_of_multiprocessing(method, python, tmp_path):
    (tmp_path / "pool.py").write_text(POOL)
    done = python("-m", "aioloop", "--children", "pool.py", method)
    ours, theirs = ([(n, word.strip()) for n in range(3)] for word in (OURS, THEIRS))
    assert done.stdout == " ".join(map(str, ours)) + "\n", done.stderr
    off = python("-m", "aioloop", "--children", "pool.py", method, env={"AIOLOOP": "0"})
    assert off.stdout == " ".join(map(str, theirs)) + "\n", off.stderr


def test_asyncio_as_the_main_module(child):
    """``python -m asyncio`` has its own finder of modules, runpy."""
    if sys.version_info < (3, 14):
        pytest.skip("python -m asyncio is nothing but a console before 3.14")
    assert "usage" in said(child("-m", "asyncio", "ps", "--help"))


# What the child sees besides.

SEEN = """
import sys
print(sys.path)
finders = [getattr(f, "__name__", type(f).__name__) for f in sys.meta_path]
print([name for name in finders if name != "_Finder"])
print(getattr(sys.modules.get("sitecustomize"), "__file__", None))
import asyncio
print(type(asyncio.__loader__), asyncio.__spec__.loader is asyncio.__loader__)
print([getattr(f, "__name__", type(f).__name__) for f in sys.meta_path])
import importlib
print(importlib.reload(asyncio) is asyncio)
"""


def test_a_child_sees_what_it_would_see(child):
    assert said(child("-c", SEEN)) == said(child("-c", SEEN, options=()))


def test_the_sitecustomize_of_the_environment_stays_in_force(child, tmp_path):
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "import builtins, sys\n"
        "builtins.theirs = sys.modules[__name__].__dict__ is globals()\n"
    )
    env = {"PYTHONPATH": os.pathsep.join([str(folder), str(PACKAGE_PARENT)])}
    code = SEEN + "print(theirs, __import__('sitecustomize').__file__)"
    ours, theirs = (
        said(child("-c", code, env=env, options=options))
        for options in (("--children",), ())
    )
    assert ours == theirs
    assert f"True {folder}" in ours
    assert said(child("-c", LOOK, env=env)) == OURS


@pytest.mark.parametrize("failure", ["import nowhere", "1 / 0"])
def test_a_sitecustomize_that_fails(failure, child, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(failure)
    env = {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(PACKAGE_PARENT)])}
    ours, theirs = (
        child("-c", "print(1)", env=env, options=options)
        for options in (("--children",), ())
    )
    # The parent's own failure comes first in both.
    assert ours.stderr == theirs.stderr
    assert ours.stdout == theirs.stdout == "1\n"


def test_the_paths_of_the_environment_stay(python):
    code = "import os; print(os.environ['PYTHONPATH'])"
    env = {"PYTHONPATH": f"{PACKAGE_PARENT}{os.pathsep}/nowhere"}
    done = python("-m", "aioloop", "--children", "--children", "-c", code, env=env)
    assert said(done) == f"{FOLDER}{os.pathsep}{env['PYTHONPATH']}\n"


@pytest.mark.parametrize("option", ["-E", "-I", "-S"])
def test_options_of_python_that_hide_the_variable(option, python):
    start = f"import sys; sys.path.insert(0, {str(PACKAGE_PARENT)!r}); "
    start += "sys.argv = ['x', '--children', '-c', '1']; "
    done = python(option, "-c", start + "from aioloop._main import main; main()")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "python -m aioloop: error: --children needs PYTHONPATH and site:"
        " no -E, -I or -S, please"
    )


# Where aioloop is not as it should be.


@pytest.fixture
def copy(tmp_path):
    """Copy the package's Python files to a place from which nothing is built."""
    folder = tmp_path / "copy"
    shutil.copytree(PACKAGE, folder / "aioloop", ignore=shutil.ignore_patterns("*.so"))
    return folder


def start_by(folder):
    return {"PYTHONPATH": str(folder / "aioloop" / "_children")}


def test_a_child_finds_the_parents_aioloop(python):
    assert said(python("-c", LOOK, env=start_by(PACKAGE_PARENT))) == OURS


def test_another_python_is_left_alone(python, copy):
    """The extension is not there for it."""
    assert said(python("-c", LOOK, env=start_by(copy))) == THEIRS


def test_a_failure_is_told_and_asyncio_works(python, copy):
    (copy / "aioloop" / "__init__.py").write_text("1 / 0")
    done = python("-c", LOOK, env=start_by(copy))
    assert (done.returncode, done.stdout) == (0, THEIRS)
    assert done.stderr == (
        "aioloop: this process uses asyncio's own loops:"
        " ZeroDivisionError: division by zero\n"
    )


# --enable and --disable


class Environment:
    """A virtual environment that aioloop is installed in, as if by pip install -e."""

    def __init__(self, folder):
        self.folder = folder
        self.python = folder / "bin" / "python"
        # The environment is the program's, and not that of whoever runs the tests.
        self.env = child_environment()
        self.env.pop("PYTHONHOME", None)
        del self.env["PYTHONPATH"]
        command = [sys.executable, "-m", "venv", "--without-pip", folder]
        subprocess.run(command, check=True, env=self.env, timeout=LIMIT)
        self.site = Path(
            said(
                self.run("-c", "import sysconfig; print(sysconfig.get_path('purelib'))")
            ).strip()
        )
        assert self.site.is_relative_to(folder)
        self.install()

    def run(self, *arguments, cwd="/", **env):
        return subprocess.run(
            [self.python, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            cwd=cwd,
            env=self.env | env,
            timeout=LIMIT,
        )

    def install(self):
        (self.site / "aioloop-tree.pth").write_text(f"{PACKAGE_PARENT}\n")

    def uninstall(self):
        (self.site / "aioloop-tree.pth").unlink()

    def files(self):
        return {
            str(path.relative_to(self.folder)): path.read_bytes()
            for path in self.folder.rglob("*")
            if path.is_file()
        }

    def aioloop(self, option, **env):
        return self.run("-m", "aioloop", option, **env)


@pytest.fixture
def environment(tmp_path):
    """Make a virtual environment."""
    return Environment(tmp_path / "environment")


def test_enable_and_disable(environment):
    before = environment.files()
    said_first = said(environment.aioloop("--enable"))
    assert said_first.startswith("aioloop is enabled: each process of ")
    end = "start" if hasattr(site, "StartupState") else "pth"
    for name in (f"_aioloop_startup.{end}", "_aioloop_startup.py"):
        assert f"  {environment.site / name}\n" in said_first
        assert (environment.site / name).is_file()
    added = environment.files()
    assert said(environment.run("-c", LOOK)) == OURS
    assert said(environment.run("-I", "-c", LOOK)) == OURS
    assert said(environment.run("-c", LOOK, AIOLOOP="0")) == THEIRS
    code = "import sys; print('asyncio' in sys.modules, 'aioloop' in sys.modules)"
    assert said(environment.run("-c", code)) == "False False\n"
    # Again: it is so already.
    assert said(environment.aioloop("--enable")) == said_first
    compiled = environment.files().keys() - added.keys()
    assert all(name.endswith(".pyc") for name in compiled)

    told = said(environment.aioloop("--disable"))
    assert told.startswith(f"aioloop is disabled for {environment.python}. Removed:\n")
    assert environment.files() == before
    assert said(environment.run("-c", LOOK)) == THEIRS
    assert said(environment.aioloop("--disable")) == (
        f"aioloop is not enabled for {environment.python}: nothing to do.\n"
    )
    assert environment.files() == before


def test_a_program_that_is_run_by_aioloop_in_an_enabled_environment(environment):
    said(environment.aioloop("--enable"))
    code = "import asyncio; loop = asyncio.get_event_loop(); loop.close()"
    assert said(environment.run("-m", "aioloop", "-c", code + LOOK)) == OURS
    start = ("-m", "aioloop", "--children", "-c", START, "-c", code + LOOK)
    assert said(environment.run(*start)) == OURS


def test_an_enabled_environment_from_which_aioloop_has_gone(environment):
    said(environment.aioloop("--enable"))
    environment.uninstall()
    assert said(environment.run("-c", LOOK)) == THEIRS


def test_an_old_version_of_the_files_is_replaced(environment):
    said(environment.aioloop("--enable"))
    startup = environment.site / "_aioloop_startup.py"
    startup.write_text("def wait_for_asyncio(): pass\n")
    assert said(environment.run("-c", LOOK)) == THEIRS
    said(environment.aioloop("--enable"))
    assert said(environment.run("-c", LOOK)) == OURS


def test_enable_where_aioloop_is_not_installed(environment):
    environment.uninstall()
    before = environment.files()
    done = environment.aioloop("--enable", PYTHONPATH=str(PACKAGE_PARENT))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"python -m aioloop --enable: a process of {environment.python} does not get"
        " aioloop: aioloop is not installed in it (PYTHONPATH does not count)\n"
    )
    assert environment.files() == before


def test_an_environment_that_cannot_be_written_to(environment):
    before = environment.files()
    environment.site.chmod(0o555)
    try:
        if os.access(environment.site, os.W_OK):
            # root may; a file in the place of the folder stops it too.
            moved = environment.site.rename(environment.folder / "moved")
            environment.site.symlink_to("/proc/self")
            env = {"PYTHONPATH": str(PACKAGE_PARENT)}
        else:
            moved, env = None, {}
        done = environment.aioloop("--enable", **env)
        assert (done.returncode, done.stdout) == (1, "")
        start = f"python -m aioloop --enable: cannot write to {environment.site}: "
        assert done.stderr.startswith(start)
        assert done.stderr.count("\n") == 1
    finally:
        if moved:
            environment.site.unlink()
            moved.rename(environment.site)
        environment.site.chmod(0o755)
    assert environment.files() == before


@pytest.mark.parametrize("option", ["--enable", "--disable"])
def test_nothing_else_is_accepted_beside(option, python):
    done = python("-m", "aioloop", option, "app.py")
    assert done.returncode == 2
    assert done.stderr.endswith(f"python -m aioloop: error: {option} stands alone\n")


def test_the_package_has_the_files():
    """They are beside the modules; setuptools is told of them one by one."""
    assert {path.name for path in FOLDER.glob("*.py")} == {
        "_aioloop_startup.py",
        "sitecustomize.py",
    }
    assert Path(aioloop.__file__).absolute().parent == PACKAGE
