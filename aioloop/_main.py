"""The command line: run a program in ``__main__`` with aioloop installed.

The program sees what it would see under ``python`` itself: sys.argv, sys.path[0], the
names of ``__main__``, exit codes, tracebacks, an empty stack below its own frames. It
runs in the interpreter's one ``__main__`` module, because multiprocessing and pickle
look there for it.
"""

from __future__ import annotations

import asyncio
import builtins
import io
import linecache
import os
import runpy
import sys
import textwrap
import threading
from asyncio import coroutines, events
from importlib.machinery import (
    BuiltinImporter,
    SourceFileLoader,
    SourcelessFileLoader,
)
from pkgutil import get_importer
from typing import TYPE_CHECKING

from . import _install, _layouts
from ._core import _call_at_bottom, libev_version
from ._loop import new_event_loop
from ._version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, TracebackType
    from typing import Any, NoReturn

USAGE = "usage: python -m aioloop [options] script.py | -m module | -c code [args ...]"

HELP = f"""{USAGE}
       python -m aioloop --enable | --disable

Run an unchanged asyncio program on the aioloop event loop.

what to run:
  script.py    a script, or a directory or zip file with a __main__.py;
               - reads the program from standard input
  -m module    a module or package, as python -m does
  -c code      a program passed as a string
  args         go to the program in sys.argv

options:
  --debug      turn on asyncio's debug mode, as PYTHONASYNCIODEBUG=1 does
  --as-uvloop  let "import uvloop" find aioloop, for programs that ask for uvloop
  --accelerate put C in the place of asyncio's queues, locks and sleep
  --children   have the Python processes that the program starts use aioloop too,
               but those whose environment has AIOLOOP=0
  --blocking-calls log | raise
               log calls that block the loop (time.sleep, open ...), or have them raise
  --stall SECONDS
               report callbacks that hold the loop up for so long, while they do
  --orphans    log lost tasks, coroutines, exceptions and transports, with their places
  --report FILE
               write a page (or .json) of what the loops did, at the end and at SIGUSR2
  --dump-signal  write what every task waits for to stderr at SIGUSR2, with tasks in a
               deadlock and tasks that nothing can wake any more
  --enable     have each process of this Python environment use aioloop, without
               python -m aioloop, but those whose environment has AIOLOOP=0; exit
  --disable    undo that; exit
  -h, --help   show this text and exit
  -V, --version  show the versions of aioloop, libev and Python, and what is left to
               asyncio in a Python that aioloop does not know, and exit
"""


def main() -> None:
    """Read the command line in sys.argv and run the program that it names."""
    arguments = sys.argv[1:]
    debug = False
    while arguments:
        option = arguments[0]
        if option == "--debug":
            debug = True
            del arguments[0]
        elif option == "--as-uvloop":
            # For child processes that install aioloop, too.
            os.environ["AIOLOOP_AS_UVLOOP"] = "1"
            del arguments[0]
        elif option == "--accelerate":
            # For child processes that install aioloop, too.
            os.environ["AIOLOOP_ACCELERATE"] = "1"
            del arguments[0]
        elif option == "--children":
            _give_to_children()
            del arguments[0]
        elif option in ("--enable", "--disable"):
            if len(arguments) > 1:
                _usage_error(f"{option} stands alone")
            _change_environment(option)
            return
        elif option == "--orphans":
            os.environ["AIOLOOP_ORPHANS"] = "1"
            del arguments[0]
        elif option.partition("=")[0] == "--blocking-calls":
            mode = _value_of_option(arguments, ("log", "raise"))
            # Child processes do the same, as with --debug.
            os.environ["AIOLOOP_BLOCKING_CALLS"] = mode
        elif option == "--stall" or option.startswith("--stall="):
            _set_stall_threshold(_value_of_option(arguments))
        elif option == "--report" or option.startswith("--report="):
            _report_to(_value_of_option(arguments))
        elif option == "--dump-signal":
            from ._dump import dump_on_signal

            dump_on_signal(leaks=True)
            del arguments[0]
        elif option in ("-h", "--help"):
            print(HELP, end="")
            return
        elif option in ("-V", "--version"):
            print(
                f"aioloop {__version__} (libev {libev_version()}, Python {_python()})"
            )
            if _layouts.OFF:
                print(f"asyncio's own code runs for: {', '.join(_layouts.OFF)}")
            return
        else:
            break
    if not arguments:
        _usage_error("no program given")

    option = arguments[0]
    run: Callable[[str], None] = _run_path
    if option.startswith(("-m", "-c")):
        run = _run_module if option.startswith("-m") else _run_code
        argv0, attached = option[:2], option[2:]
        rest = [attached, *arguments[1:]] if attached else arguments[1:]
        if not rest:
            _usage_error(f"argument expected for the {argv0} option")
        name, *program_arguments = rest
    elif option.startswith("-") and option != "-":
        _usage_error(f"unknown option {option}")
    else:
        name, *program_arguments = arguments
        argv0 = name
        if name == "-":
            run = _run_stdin

    if debug:
        _turn_debug_on()
    _install_for_program()
    sys.argv[:] = [argv0, *program_arguments]
    run(name)


def _python() -> str:
    return "{}.{}.{}".format(*sys.version_info)


def _usage_error(message: str) -> NoReturn:
    print(f"{USAGE}\npython -m aioloop: error: {message}", file=sys.stderr)
    sys.exit(2)


def _value_of_option(
    arguments: list[str], allowed: tuple[str, ...] | None = None
) -> str:
    """Take "--option value" or "--option=value" off the arguments."""
    option, equals, value = arguments.pop(0).partition("=")
    if not equals and arguments:
        value = arguments.pop(0)
    if allowed is None and not value:
        _usage_error(f"argument expected for the {option} option")
    if allowed is not None and value not in allowed:
        _usage_error(f"argument of {option} must be {' or '.join(allowed)}")
    return value


def _set_stall_threshold(seconds: str) -> None:
    """Set the stall threshold of all loops, here and in child processes."""
    from . import _stall

    os.environ["AIOLOOP_STALL"] = seconds
    try:
        _stall.threshold_of_environment()
    except ValueError as error:
        _usage_error(str(error).replace("AIOLOOP_STALL", "--stall"))


def _report_to(path: str) -> None:
    from ._report import report_at_exit

    try:
        report_at_exit(path)
    except OSError as error:
        _usage_error(f"cannot write the report: {error}")


def _give_to_children() -> None:
    """Have the Python processes that this one starts import our sitecustomize."""
    if sys.flags.ignore_environment or sys.flags.no_site:
        _usage_error("--children needs PYTHONPATH and site: no -E, -I or -S, please")
    folder = os.path.join(os.path.dirname(os.path.abspath(__file__)), "_children")
    paths = os.environ.get("PYTHONPATH")
    if paths is None or folder not in paths.split(os.pathsep):
        os.environ["PYTHONPATH"] = f"{folder}{os.pathsep}{paths}" if paths else folder


def _change_environment(option: str) -> None:
    from . import _enable

    try:
        print(_enable.enable() if option == "--enable" else _enable.disable())
    except _enable.CannotChange as error:
        print(f"python -m aioloop {option}: {error}", file=sys.stderr)
        sys.exit(1)


# What to run.


def _run_path(path: str) -> None:
    if get_importer(path) is not None:
        # A directory or a zip file. Python puts it in front even in safe-path mode.
        _set_first_path(_absolute(path), always=True)
        _fresh_main()
        _call(_execute_module, "__main__", False)
        return
    filename = _absolute(path)
    try:
        with io.open_code(filename) as file:
            source = file.read()
    except OSError as error:
        reason = f"[Errno {error.errno}] {error.strerror}"
        print(
            f"{sys.executable}: can't open file {filename!r}: {reason}", file=sys.stderr
        )
        sys.exit(2)
    _set_first_path(os.path.dirname(os.path.realpath(filename)))
    if path.endswith(".pyc"):
        sourceless = SourcelessFileLoader("__main__", filename)
        _fresh_main(loader=sourceless, file=filename)
        _call(_execute_sourceless, sourceless)
    else:
        _fresh_main(loader=SourceFileLoader("__main__", filename), file=filename)
        _call(_execute, source, filename)


def _run_stdin(_name: str) -> None:
    _set_first_path("")
    _fresh_main(loader=BuiltinImporter, file="<stdin>")
    _call(_execute, sys.stdin.buffer.read(), "<stdin>")


def _run_code(code: str) -> None:
    _set_first_path("")
    _fresh_main(loader=BuiltinImporter)
    if sys.version_info >= (3, 14):
        code = textwrap.dedent(code)
    if sys.version_info >= (3, 13):
        # Tracebacks of "python -c" show the lines of the code since 3.13.
        lines = code.splitlines(keepends=True)
        linecache.cache["<string>"] = (len(code), None, lines, "<string>")
    _call(_execute, code, "<string>")


def _run_module(name: str) -> None:
    # sys.path[0] is the current directory already: this is what "-m aioloop" made it.
    _fresh_main()
    _call(_execute_module, name)


def _execute(source: bytes | str, filename: str) -> None:
    code = compile(source, filename, "exec", dont_inherit=True)
    _execute_in_main(code)


def _execute_sourceless(loader: SourcelessFileLoader) -> None:
    code = loader.get_code("__main__")
    assert code is not None
    _execute_in_main(code)


def _execute_in_main(code: CodeType) -> None:
    _call_at_bottom(exec, code, vars(sys.modules["__main__"]))


def _execute_module(*arguments: object) -> None:
    _call_at_bottom(runpy._run_module_as_main, *arguments)  # type: ignore[attr-defined]


def _absolute(path: str) -> str:
    """Make a script's path absolute as Python does: joined, but not normalised."""
    return os.path.join(os.getcwd(), path)


def _set_first_path(entry: str, *, always: bool = False) -> None:
    """Replace the current directory that "python -m" has put into sys.path[0]."""
    if not sys.flags.safe_path:
        sys.path[0] = entry
    elif always:
        sys.path.insert(0, entry)


def _fresh_main(*, loader: object = None, file: str | None = None) -> None:
    """Make the ``__main__`` module look as it does before a program starts."""
    namespace = vars(sys.modules["__main__"])
    namespace.clear()
    namespace.update(
        __name__="__main__",
        __doc__=None,
        __package__=None,
        __loader__=loader,
        __spec__=None,
        __builtins__=builtins,
    )
    if sys.version_info < (3, 14):
        namespace["__annotations__"] = {}
    if file is not None:
        namespace["__file__"] = file
        if sys.version_info < (3, 15):
            namespace["__cached__"] = None


# How its failure is shown.


def _call(function: Callable[..., object], *arguments: object) -> None:
    """Run the program; the traceback of its failure starts with its own frames."""
    try:
        function(*arguments)
    except SystemExit:
        raise
    except BaseException as error:
        _show_without_own_frames(error)
        raise


def _show_without_own_frames(error: BaseException) -> None:
    """Make sys.excepthook show this one exception without the frames of this file.

    The exception goes on through the interpreter, which decides the exit status (a
    KeyboardInterrupt ends the process by SIGINT); only the picture is trimmed.
    """
    own = main.__code__.co_filename
    trimmed = error.__traceback__
    while trimmed is not None and trimmed.tb_frame.f_code.co_filename == own:
        trimmed = trimmed.tb_next
    hook = sys.excepthook

    def excepthook(
        kind: type[BaseException],
        value: BaseException,
        traceback: TracebackType | None,
    ) -> None:
        if value is error:
            sys.excepthook = hook
            sys.last_traceback = traceback = trimmed
            value = value.with_traceback(trimmed)
        hook(kind, value, traceback)

    sys.excepthook = excepthook


# What the program's asyncio does.


def _turn_debug_on() -> None:
    """Turn asyncio's debug mode on for all loops, here and in child processes."""
    os.environ["PYTHONASYNCIODEBUG"] = "1"
    if sys.flags.ignore_environment:
        # -E and -I make asyncio ignore the variable; the option still means it.
        coroutines._is_debug_mode = lambda: True  # type: ignore[attr-defined]


def _install_for_program() -> None:
    _install.install_with(_make_program_policy)
    if not _install.policies_exist():
        find = _GetEventLoop(events.get_event_loop)
        for owner in (asyncio, events):
            _install.replace(_install.Attribute(owner, "get_event_loop"), find)
    _install.stand_in_by_environment()
    _install.accelerate_as(None)


def _make_program_policy() -> object:
    from ._policy import EventLoopPolicy

    class ProgramEventLoopPolicy(EventLoopPolicy):
        """The policy under ``python -m aioloop``.

        get_event_loop() in the main thread makes the first loop without a warning,
        as programs written for older Pythons expect. After set_event_loop() it
        raises what asyncio raises.
        """

        _local: Any

        def get_event_loop(self) -> asyncio.AbstractEventLoop:
            local = self._local
            if (
                local._loop is None
                and not getattr(local, "_set_called", False)
                and threading.current_thread() is threading.main_thread()
            ):
                self.set_event_loop(self.new_event_loop())
            return super().get_event_loop()

        def set_event_loop(self, loop: asyncio.AbstractEventLoop | None) -> None:
            super().set_event_loop(loop)
            self._local._set_called = True

    return ProgramEventLoopPolicy()


class _GetEventLoop:
    """asyncio.get_event_loop() for old programs, where asyncio has no policies."""

    def __init__(self, original: Callable[[], asyncio.AbstractEventLoop]) -> None:
        self._original = original
        self._made_one = False

    def __call__(self) -> asyncio.AbstractEventLoop:
        try:
            return self._original()
        except RuntimeError:
            in_main = threading.current_thread() is threading.main_thread()
            if self._made_one or not in_main:
                raise
        self._made_one = True
        loop = new_event_loop()
        asyncio.set_event_loop(loop)
        return loop
