"""``python -m aioloop``: a program sees what it would see under python itself."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import zipfile

import pytest

import aioloop
from tests.conftest import needs_gil

PYTHON = sys.version_info[:2]
OURS = ("-m", "aioloop")

# Prints all that a program can see of how it was started.
LOOK = """
import os, sys
names = dict(globals())
for name in ("os", "sys"):
    del names[name]
for name in ("__builtins__", "__loader__", "__annotations__"):
    if name in names:
        value = names[name]
        names[name] = value if isinstance(value, type) else type(value).__name__
if names["__spec__"] is not None:
    spec = names["__spec__"]
    names["__spec__"] = spec.name, spec.origin, type(spec.loader).__name__
print(sorted(names.items()))
print(sys.argv)
print(sys.path)
print(sys.modules["__main__"].__dict__ is globals())
def function(): pass
print(function.__code__.co_filename, function.__module__)
print(len(sys._getframe().f_code.co_name))
"""


@pytest.fixture
def both(python):
    """Return a function that runs arguments under python and under aioloop."""

    def both(*arguments, options=(), **keywords):
        theirs = python(*options, *arguments, **keywords)
        ours = python(*options, *OURS, *arguments, **keywords)
        return theirs, ours

    return both


def parts(done):
    return done.stdout, done.stderr, done.returncode


def check_same(results):
    theirs, ours = results
    assert parts(ours) == parts(theirs)
    return theirs


@pytest.fixture
def files(tmp_path):
    """Return a function that writes files into tmp_path."""

    def files(**contents):
        for name, text in contents.items():
            path = tmp_path / (name.replace("__IN__", "/") + ".py")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        return tmp_path

    return files


# What the program sees.


@pytest.mark.parametrize(
    "program",
    [
        "look.py",
        "./look.py",
        "sub/../look.py",
        "sub/inner.py",
        "link.py",
        "{tmp}/look.py",
    ],
)
@pytest.mark.parametrize("options", [(), ("-P",)], ids=str)
def test_script(program, options, files, both, tmp_path):
    files(look=LOOK, sub__IN__inner=LOOK)
    (tmp_path / "link.py").symlink_to(tmp_path / "sub" / "inner.py")
    program = program.format(tmp=tmp_path)
    done = check_same(both(program, "a", "--debug", "-c", options=options))
    assert "['a', '--debug', '-c']" in done.stdout.replace(f"'{program}', ", "")


def test_module(files, both):
    files(look=LOOK)
    done = check_same(both("-m", "look", "a", "-m", "b"))
    assert done.returncode == 0
    check_same(both("-mlook", "a"))


def test_package(files, both):
    files(
        package__IN____init__="",
        package__IN____main__=LOOK,
        package__IN__inner=LOOK,
    )
    assert check_same(both("-m", "package", "a")).returncode == 0
    assert check_same(both("-m", "package.inner")).returncode == 0


def test_directory_with_main(files, both):
    files(program__IN____main__=LOOK)
    assert check_same(both("program", "a")).returncode == 0
    assert check_same(both("program", "a", options=("-P",))).returncode == 0


def test_zip_with_main(both, tmp_path):
    with zipfile.ZipFile(tmp_path / "program.zip", "w") as archive:
        archive.writestr("__main__.py", LOOK)
    assert check_same(both("program.zip", "a")).returncode == 0


def test_compiled_script(files, both, python):
    files(look=LOOK)
    compiled = "import py_compile; py_compile.compile('look.py', 'look.pyc')"
    assert python("-c", compiled).returncode == 0
    assert check_same(both("look.pyc", "a")).returncode == 0


def test_code(both):
    assert check_same(both("-c", LOOK, "a", "-c")).returncode == 0
    check_same(both("-cprint(1)", "a"))


def test_standard_input(both):
    assert check_same(both("-", "a", stdin=LOOK)).returncode == 0


def test_source_encoding(both, tmp_path):
    source = "# coding: latin-1\nprint(ascii('\xe9'), __doc__)\n"
    (tmp_path / "latin.py").write_bytes(source.encode("latin-1"))
    assert check_same(both("latin.py")).stdout == "'\\xe9' None\n"


def test_future_statements_of_aioloop_do_not_leak(both):
    code = "def f(x: 1 + 1): pass\nprint(f.__annotations__)"
    assert check_same(both("-c", code)).stdout == "{'x': 2}\n"


# How it ends.


@pytest.mark.parametrize(
    "end",
    [
        "pass",
        "import sys; sys.exit()",
        "import sys; sys.exit(3)",
        "import sys; sys.exit('message')",
        "raise SystemExit(None)",
        "raise SystemExit((1, 2))",
        "1/0",
        "def f():\n    raise ValueError('x')\nf()",
        "try:\n    1/0\nexcept Exception as e:\n    raise KeyError('y') from e",
        "raise KeyboardInterrupt",
        "raise BaseException('b')",
        "raise ExceptionGroup('g', [ValueError(1), TypeError(2)])",
        "this is no Python",
        "x = (",
        "import os; os._exit(5)",
        "import atexit; atexit.register(print, 'at exit'); 1/0",
        "import threading; threading.Thread(target=print, args=['thread']).start()",
        "import sys; sys.excepthook = lambda kind, value, tb: "
        "print(kind, tb.tb_frame.f_code.co_name); 1/0",
        "import sys, atexit; atexit.register(lambda: "
        "print(sys.last_traceback.tb_frame.f_code.co_name)); 1/0",
        "import os, signal; os.kill(os.getpid(), signal.SIGINT)",
        "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
    ],
)
@pytest.mark.parametrize("way", ["script", "module", "code", "directory", "stdin"])
def test_end(way, end, files, both):
    files(program=end + "\n", folder__IN____main__=end + "\n")
    arguments = {
        "script": ["program.py"],
        "module": ["-m", "program"],
        "code": ["-c", end],
        "directory": ["folder"],
        "stdin": ["-"],
    }[way]
    theirs, ours = both(*arguments, stdin=end if way == "stdin" else None)
    assert parts(ours) == parts(theirs)
    if "KeyboardInterrupt" in end:
        assert ours.returncode == -signal.SIGINT


SOURCE_TRACEBACKS = """\
import asyncio, gc, sys, threading, traceback, warnings
def stack():
    gc.collect()
    return traceback.format_stack()
def kept():
    return sys._getframe()
frame = kept()
print(stack(), frame.f_back.f_code.co_name, frame.f_back.f_back is None)
calls = []
sys.setprofile(lambda frame, event, arg: calls.append((event, frame.f_code.co_name)))
stack()
sys.setprofile(None)
print(calls[:2], len(list(traceback.walk_stack(None))))
def show(*objects):
    for obj in objects:
        frames = [f for f in obj._source_traceback if "/asyncio/" not in f.filename]
        print(len(frames), "".join(asyncio.base_events.traceback.format_list(frames)))
async def main():
    loop = asyncio.get_running_loop()
    show(asyncio.current_task(), asyncio.Future(), loop.call_soon(int))
    thread = threading.Thread(target=lambda: show(loop.call_soon_threadsafe(int)))
    thread.start()
    thread.join()
    text = traceback.format_stack()
    print(text[0], text[-1])
    try:
        raise ValueError
    except ValueError:
        traceback.print_exc(file=sys.stdout)
loop = asyncio.new_event_loop()
loop.set_debug(True)
show(asyncio.Future(loop=loop), loop.call_soon(int), loop.call_later(0, int))
loop.run_until_complete(main())
loop.close()
asyncio.run(main(), debug=True)
def last():
    show(loop.call_soon(int))
loop = asyncio.new_event_loop()
loop.set_debug(True)
import atexit
atexit.register(loop.close)
atexit.register(last)
"""


@needs_gil("stacks are read by public functions, which show the launcher")
@pytest.mark.parametrize("way", ["script", "module", "code", "directory", "stdin"])
def test_source_tracebacks_begin_at_the_program(way, files, both):
    files(program=SOURCE_TRACEBACKS, folder__IN____main__=SOURCE_TRACEBACKS)
    arguments = {
        "script": ["program.py"],
        "module": ["-m", "program"],
        "code": ["-c", SOURCE_TRACEBACKS],
        "directory": ["folder"],
        "stdin": ["-"],
    }[way]
    stdin = SOURCE_TRACEBACKS if way == "stdin" else None
    check_same(both(*arguments, stdin=stdin))


def test_missing_script(both):
    done = check_same(both("missing.py"))
    assert done.returncode == 2
    assert "can't open file" in done.stderr


def test_missing_module(both):
    done = check_same(both("-m", "missing"))
    assert done.returncode == 1
    assert "No module named missing" in done.stderr


def test_directory_without_main(files, both):
    files(empty__IN__other="")
    done = check_same(both("empty"))
    assert done.returncode == 1
    assert "can't find '__main__' module" in done.stderr


# The command line.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no program given"),
        (["--debug"], "no program given"),
        (["-m"], "argument expected for the -m option"),
        (["--debug", "-c"], "argument expected for the -c option"),
        (["-x", "script.py"], "unknown option -x"),
        (["--verbose"], "unknown option --verbose"),
    ],
)
def test_usage_error(arguments, message, python):
    done = python(*OURS, *arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    usage, error = done.stderr.splitlines()
    assert usage.startswith("usage: python -m aioloop [options] script.py | -m module")
    assert error == f"python -m aioloop: error: {message}"


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help(option, python):
    done = python(*OURS, option)
    assert (done.stderr, done.returncode) == ("", 0)
    for word in ("usage:", "--debug", "--version", "-m module", "-c code", "script.py"):
        assert word in done.stdout


@pytest.mark.parametrize("option", ["-V", "--version"])
def test_version(option, python):
    done = python(*OURS, option)
    assert (done.stderr, done.returncode) == ("", 0)
    assert re.fullmatch(
        rf"aioloop {re.escape(aioloop.__version__)} \(libev [0-9.]+ (bundled|system), "
        rf"Python {'.'.join(map(str, sys.version_info[:3]))}\)\n",
        done.stdout,
    )


# The program's loops.


@pytest.mark.parametrize(
    "make",
    [
        "asyncio.run(main())",
        "with asyncio.Runner() as runner: runner.run(main())",
        "asyncio.new_event_loop().run_until_complete(main())",
        "asyncio.events.new_event_loop().run_until_complete(main())",
        "asyncio.get_event_loop().run_until_complete(main())",
        "from asyncio import *; get_event_loop().run_until_complete(main())",
    ],
)
@pytest.mark.parametrize("debug", [False, True])
def test_the_program_gets_our_loop(make, debug, python):
    code = f"""if True:
        import asyncio
        async def main():
            loop = asyncio.get_running_loop()
            print(type(loop).__module__.partition(".")[0], loop.get_debug())
        {make}
    """
    options = ["--debug"] if debug else []
    done = python(
        "-W", "error", "-W", "ignore::ResourceWarning", *OURS, *options, "-c", code
    )
    assert parts(done) == (f"aioloop {debug}\n", "", 0)


def test_get_event_loop_makes_one_loop_and_keeps_it(python):
    code = """if True:
        import asyncio
        loop = asyncio.get_event_loop()
        print(asyncio.get_event_loop() is loop)
        loop.close()
        print(asyncio.get_event_loop() is loop)
    """
    done = python("-W", "error", *OURS, "-c", code)
    assert parts(done) == ("True\nTrue\n", "", 0)


@pytest.mark.parametrize(
    "before", ["asyncio.run(main())", "asyncio.set_event_loop(None)"]
)
def test_get_event_loop_raises_after_set_event_loop(before, python):
    code = f"""if True:
        import asyncio
        async def main(): pass
        {before}
        try:
            asyncio.get_event_loop()
        except RuntimeError as error:
            print(error)
    """
    done = python("-W", "error", *OURS, "-c", code)
    message = "There is no current event loop in thread 'MainThread'.\n"
    assert parts(done) == (message, "", 0)


def test_get_event_loop_raises_in_other_threads(python):
    code = """if True:
        import asyncio, threading
        def target():
            try:
                asyncio.get_event_loop()
            except RuntimeError as error:
                print(error)
        thread = threading.Thread(target=target, name="other")
        thread.start()
        thread.join()
    """
    done = python("-W", "error", *OURS, "-c", code)
    message = "There is no current event loop in thread 'other'.\n"
    assert parts(done) == (message, "", 0)


def test_get_event_loop_without_policies(python):
    """asyncio without policies is stood in for by hiding them."""
    code = """if True:
        import sys
        import aioloop._install as install, aioloop._main as program
        install.policies_exist = lambda: False
        sys.argv[1:] = ["-c", '''if True:
            import asyncio
            loop = asyncio.get_event_loop()
            print(type(loop).__name__, asyncio.get_event_loop() is loop)
            loop.close()
            asyncio.set_event_loop(None)
            try:
                asyncio.get_event_loop()
            except RuntimeError as error:
                print(error)
        ''']
        program.main()
    """
    if PYTHON < (3, 14):
        pytest.skip("the policy under this asyncio makes a loop itself")
    done = python("-W", "error", "-c", code)
    message = "There is no current event loop in thread 'MainThread'.\n"
    assert parts(done) == ("Loop True\n" + message, "", 0)


def test_the_program_may_choose_another_loop(python):
    code = """if True:
        import asyncio
        async def main():
            print(type(asyncio.get_running_loop()).__module__.partition(".")[0])
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            runner.run(main())
    """
    done = python("-W", "error", *OURS, "-c", code)
    assert parts(done) == ("asyncio\n", "", 0)


# Debug mode.

DEBUG_LOOK = """if True:
    import asyncio, os, subprocess, sys
    def depth():
        return sys.get_coroutine_origin_tracking_depth()
    async def main():
        print(asyncio.get_running_loop().get_debug(), depth())
    asyncio.run(main())
    asyncio.run(main(), debug=False)
    print(depth(), asyncio.coroutines._is_debug_mode())
    print(os.environ.get("PYTHONASYNCIODEBUG"))
"""


def test_debug_option_equals_the_environment_variable(python):
    theirs = python("-c", DEBUG_LOOK, env={"PYTHONASYNCIODEBUG": "1"})
    ours = python(*OURS, "--debug", "-c", DEBUG_LOOK)
    assert parts(ours) == parts(theirs)
    assert "True" in ours.stdout


def test_debug_is_off_without_the_option(both):
    done = check_same(both("-c", DEBUG_LOOK))
    assert done.stdout == "False 0\nFalse 0\n0 False\nNone\n"


def test_development_mode_turns_debug_on(both):
    done = check_same(both("-c", DEBUG_LOOK, options=("-X", "dev")))
    assert done.stdout.startswith("True")


def test_debug_option_counts_even_when_the_environment_does_not(python, tmp_path):
    parent = os.path.dirname(os.path.dirname(os.path.abspath(aioloop.__file__)))
    start = f"import sys; sys.path.insert(0, {parent!r}); import runpy; "
    start += f"sys.argv[1:] = ['--debug', '-c', {DEBUG_LOOK!r}]; "
    start += "runpy._run_module_as_main('aioloop')"
    done = python("-E", "-c", start)
    assert done.stdout.startswith("True"), done.stderr
    assert done.returncode == 0


# Processes.

WORKERS = """
import asyncio, concurrent.futures, multiprocessing, sys

def square(x):
    return x * x

class Value:
    def __init__(self, x):
        self.x = x

def double(value):
    return Value(2 * value.x)

async def main(method):
    loop = asyncio.get_running_loop()
    context = multiprocessing.get_context(method)
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
        jobs = [loop.run_in_executor(pool, square, x) for x in range(4)]
        print(await asyncio.gather(*jobs))
        result = await loop.run_in_executor(pool, double, Value(21))
        print(result.x, type(result) is Value)

if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
@pytest.mark.parametrize("way", ["script", "module", "package"])
def test_process_pool(way, method, files, python):
    files(program=WORKERS, package__IN____init__="", package__IN__program=WORKERS)
    arguments = {
        "script": ["program.py"],
        "module": ["-m", "program"],
        "package": ["-m", "package.program"],
    }[way]
    ignore = ["-W", "ignore:This process:DeprecationWarning"]
    done = python(*ignore, *OURS, *arguments, method)
    assert parts(done) == ("[0, 1, 4, 9]\n42 True\n", "", 0)


def test_control_c_while_the_program_sleeps(files, child_env, tmp_path, module_command):
    files(
        program="""import asyncio
async def main():
    try:
        print("asleep", flush=True)
        await asyncio.sleep(60)
    finally:
        print("cleaned up")
asyncio.run(main())
"""
    )
    process = subprocess.Popen(
        [*module_command, "program.py"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=child_env(),
    )
    assert process.stdout.readline() == "asleep\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert out == "cleaned up\n"
    assert err.splitlines()[-1] == "KeyboardInterrupt"
    assert process.returncode == -signal.SIGINT
    assert "aioloop/_main.py" not in err


def test_the_demo_runs_with_and_without_aioloop(both):
    theirs, ours = both("-m", "aioloop.demo")
    for done, name in ((theirs, "asyncio."), (ours, "aioloop.")):
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        head, *rest = done.stdout.splitlines()
        assert head.startswith(f"asyncio on {name}")
        assert rest[-1] == "done"
        for word in ("streams", "subprocess", "signal", "executor"):
            assert any(line.split()[0] == word for line in rest)
