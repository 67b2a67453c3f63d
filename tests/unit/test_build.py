"""The build: whose libev is taken, what a bare machine is told, what is rebuilt, what a
source archive and a wheel hold."""

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.conftest import FREE_THREADED

TREE = Path(__file__).resolve().parents[2]

LIBEV_PACKAGES = [
    "apt-get install libev-dev",
    "dnf install libev-devel",
    "apk add libev-dev",
    "brew install libev",
]
PYTHON_PACKAGES = [
    f"apt-get install python{sys.version_info.major}.{sys.version_info.minor}-dev",
    "dnf install python3-devel",
    "apk add python3-dev",
    "brew install python@",
]

TINY_HEADER = """\
#include <Python.h>
int al_tiny_answer(void);
#define ANSWER 1
"""
TINY_ANSWER = """\
#include "tiny.h"
int
al_tiny_answer(void)
{
#ifdef AL_HARD
    return 10 + ANSWER;
#else
    return ANSWER;
#endif
}
"""
TINY_MODULE = """\
#include <Python.h>
int al_tiny_answer(void);
static int
exec_module(PyObject *module)
{
    return PyModule_AddIntConstant(module, "answer", al_tiny_answer());
}
static PyModuleDef_Slot slots[] = {{Py_mod_exec, (void *)exec_module}, {0, NULL}};
static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "_core", .m_slots = slots};
PyMODINIT_FUNC PyInit__core(void);
PyMODINIT_FUNC
PyInit__core(void)
{
    return PyModuleDef_Init(&definition);
}
"""


# libev's source, as a compiler without mercy would not like it.
TINY_LIBEV = """\
static int unused(void) { int unset; return unset; }
static int libev_answer(char *text) { unsigned long n = -1; return text ? n : 100; }
"""


@pytest.fixture
def build(monkeypatch, tmp_path):
    """The module setup.py, with nothing of this machine's settings in its view."""
    for name in ("AIOLOOP_LIBEV", "LIBEV_PREFIX", "PKG_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    spec = importlib.util.spec_from_file_location("aioloop_setup", TREE / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def put(path, text=""):
    """Write a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def clean_environment(**more):
    """Return the environment of a plain build, without what a sanitizer run adds."""
    dropped = ("LD_PRELOAD", "PYTHONPATH", "PYTHONMALLOC", "LIBEV_PREFIX")
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in dropped and not name.startswith("AIOLOOP_")
    }
    return {**kept, **more}


def test_missing_libev_names_the_package_of_every_system(build, tmp_path):
    with pytest.raises(SystemExit) as caught:
        build.find_libev(prefixes=(tmp_path,), pkg_config=lambda: None)
    message = str(caught.value)
    assert [text for text in LIBEV_PACKAGES if text not in message] == []
    assert str(tmp_path / "include") in message


def test_missing_python_headers_name_the_package_of_every_system(build, tmp_path):
    with pytest.raises(SystemExit) as caught:
        build.check_python_headers(tmp_path)
    message = str(caught.value)
    assert [text for text in PYTHON_PACKAGES if text not in message] == []
    assert f"{tmp_path}/Python.h" in message


def test_missing_compiler_is_named(build, tmp_path):
    with pytest.raises(SystemExit, match="apt-get install gcc libc6-dev"):
        build.check_compiler([str(tmp_path / "no-compiler"), "-pthread"])


def test_headers_of_this_interpreter_are_found(build):
    assert build.check_python_headers() is None


@pytest.mark.parametrize("folder", ["include", "include/libev"])
def test_libev_is_found_by_its_header(build, tmp_path, folder):
    put(tmp_path / "second" / folder / "ev.h")
    found = build.find_libev(
        prefixes=(tmp_path / "first", tmp_path / "second"), pkg_config=lambda: None
    )
    assert found == (
        [f"-I{tmp_path / 'second' / folder}"],
        [f"-L{tmp_path / 'second' / 'lib'}", "-lev"],
    )


def test_pkg_config_comes_before_the_usual_places(build, tmp_path, monkeypatch):
    script = put(tmp_path / "pkg-config", "#!/bin/sh\necho -I/x/inc -L/x/lib -lev\n")
    script.chmod(0o755)
    put(tmp_path / "include" / "ev.h")
    monkeypatch.setenv("PKG_CONFIG", str(script))
    found = build.find_libev(prefixes=(tmp_path,))
    assert found == (["-I/x/inc"], ["-L/x/lib", "-lev"])


@pytest.mark.parametrize("script", [None, "#!/bin/sh\nexit 1\n"])
def test_places_are_searched_without_help_of_pkg_config(
    build, tmp_path, monkeypatch, script
):
    command = tmp_path / "pkg-config"
    if script:
        put(command, script).chmod(0o755)
    monkeypatch.setenv("PKG_CONFIG", str(command))
    put(tmp_path / "include" / "ev.h")
    assert build.find_libev(prefixes=(tmp_path,))[0] == [f"-I{tmp_path / 'include'}"]


def test_libev_prefix_comes_before_everything(build, tmp_path, monkeypatch):
    put(tmp_path / "chosen" / "include" / "ev.h")
    monkeypatch.setenv("LIBEV_PREFIX", str(tmp_path / "chosen"))
    found = build.find_libev(pkg_config=lambda: ([], ["-lother"]))
    assert found[0] == [f"-I{tmp_path / 'chosen' / 'include'}"]


NO_LIBEV = {"prefixes": (), "pkg_config": lambda: None}
SYSTEM_LIBEV = {"prefixes": (), "pkg_config": lambda: (["-I/x"], ["-lev"])}


@pytest.mark.parametrize("folder", ["libev", "build/libev"])
@pytest.mark.parametrize(
    ("choice", "system"),
    [("", NO_LIBEV), ("bundled", NO_LIBEV), ("bundled", SYSTEM_LIBEV)],
    ids=["no other", "bundled and no other", "bundled"],
)
def test_libev_in_source_is_taken(build, monkeypatch, tmp_path, folder, choice, system):
    put(tmp_path / folder / "ev.c")
    monkeypatch.setenv("AIOLOOP_LIBEV", choice)
    flags = ["-DAL_BUNDLED_LIBEV", f"-isystem{folder}"]
    assert build.find_libev(**system) == (flags, [])


@pytest.mark.parametrize("folder", ["libev", "build/libev"])
def test_libev_in_source_comes_first_without_a_gil(
    build, monkeypatch, tmp_path, folder
):
    monkeypatch.setattr(build.sysconfig, "get_config_var", lambda name: 1)
    assert build.find_libev(**SYSTEM_LIBEV) == (["-I/x"], ["-lev"])
    put(tmp_path / folder / "ev.c")
    found = build.find_libev(**SYSTEM_LIBEV)
    assert found == (["-DAL_BUNDLED_LIBEV", f"-isystem{folder}"], [])
    monkeypatch.setenv("AIOLOOP_LIBEV", "system")
    assert build.find_libev(**SYSTEM_LIBEV) == (["-I/x"], ["-lev"])


@pytest.mark.parametrize("choice", ["", "system"])
def test_the_systems_libev_comes_before_one_in_source(
    build, monkeypatch, tmp_path, choice
):
    monkeypatch.setattr(build.sysconfig, "get_config_var", lambda name: 0)
    put(tmp_path / "libev" / "ev.c")
    monkeypatch.setenv("AIOLOOP_LIBEV", choice)
    assert build.find_libev(**SYSTEM_LIBEV) == (["-I/x"], ["-lev"])


@pytest.mark.parametrize(
    "variable", [("AIOLOOP_LIBEV", "system"), ("LIBEV_PREFIX", "/nowhere")]
)
def test_who_names_the_systems_libev_gets_no_other(
    build, monkeypatch, tmp_path, variable
):
    put(tmp_path / "libev" / "ev.c")
    monkeypatch.setenv(*variable)
    with pytest.raises(SystemExit, match="apt-get install libev-dev"):
        build.find_libev(**NO_LIBEV)


def test_bundled_libev_without_its_source_says_where_it_is_had(build, monkeypatch):
    monkeypatch.setenv("AIOLOOP_LIBEV", "bundled")
    with pytest.raises(SystemExit, match="libev, build/libev.*\n.*libev-source"):
        build.find_libev(**SYSTEM_LIBEV)


def test_another_word_for_libev_is_refused(build, monkeypatch):
    monkeypatch.setenv("AIOLOOP_LIBEV", "mine")
    with pytest.raises(SystemExit, match="'mine'; it can be 'system' or 'bundled'"):
        build.find_libev(**SYSTEM_LIBEV)


@pytest.fixture
def project(tmp_path):
    """A project with this setup.py and a module of two tiny sources."""
    for name in ("setup.py", "pyproject.toml", "LICENSE"):
        shutil.copy(TREE / name, tmp_path)
    put(tmp_path / "README.md")
    configuration = tomllib.loads((TREE / "pyproject.toml").read_text())
    for package in configuration["tool"]["setuptools"]["packages"]:
        put(tmp_path.joinpath(*package.split("."), "__init__.py"))
    shutil.copy(TREE / "aioloop" / "_version.py", tmp_path / "aioloop")
    put(tmp_path / "aioloop" / "_uvloop" / "__init__.py")
    put(tmp_path / "src" / "tiny.h", TINY_HEADER)
    put(tmp_path / "src" / "answer.c", TINY_ANSWER)
    put(tmp_path / "src" / "module.c", TINY_MODULE)
    return tmp_path


def run_build(project, **environment):
    """Build in place; return the finished process."""
    return subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=project,
        env=clean_environment(**environment),
        capture_output=True,
        text=True,
        timeout=100,
    )


def answer(project, **environment):
    """Build in place, import the module in a new process, return its constant."""
    built = run_build(project, **environment)
    assert built.returncode == 0, built.stderr
    code = "from aioloop import _core; print(_core.answer)"
    shown = subprocess.run(
        [sys.executable, "-c", code],
        cwd=project,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    return int(shown.stdout)


def objects(project):
    """Return {path: time} of all object files and built extensions."""
    found = [*project.glob("build/**/*.o"), *project.glob("aioloop/*.so")]
    return {path.relative_to(project): path.stat().st_mtime_ns for path in found}


def later(path, text):
    """Write a file with a time that is after that of everything built so far."""
    newest = max(p.stat().st_mtime_ns for p in path.parents[1].rglob("*"))
    path.write_text(text)
    os.utime(path, ns=(newest + 1, newest + 1))


def test_build_without_libev_ends_with_the_message_alone(project):
    built = run_build(project, LIBEV_PREFIX=str(project / "nowhere"))
    assert built.returncode == 1
    assert built.stderr.startswith("aioloop: libev and its header ev.h are needed")
    assert "Traceback" not in built.stderr


def test_second_build_makes_nothing_anew(project):
    assert answer(project) == 1
    before = objects(project)
    assert len(before) == 3
    assert answer(project) == 1
    assert objects(project) == before


def test_changed_header_compiles_only_what_includes_it(project):
    assert answer(project) == 1
    before = objects(project)
    later(project / "src" / "tiny.h", TINY_HEADER.replace("ANSWER 1", "ANSWER 2"))
    assert answer(project) == 2
    changed = [path for path, time in objects(project).items() if before[path] != time]
    assert sorted(path.name for path in changed if path.suffix == ".o") == ["answer.o"]


def test_removed_source_leaves_the_extension(project):
    assert answer(project) == 1
    text = TINY_MODULE.replace("int al_tiny_answer(void);", "")
    later(project / "src" / "module.c", text.replace("al_tiny_answer()", "3"))
    (project / "src" / "answer.c").unlink()
    assert answer(project) == 3


def test_flavours_do_not_mix(project):
    assert answer(project) == 1
    assert answer(project, AIOLOOP_HARD="1") == 11
    assert answer(project) == 1
    folders = {
        path.parts[1].split("-")[0] for path in objects(project) if path.parts[1:2]
    }
    assert {"release", "hard"} <= folders


def test_broken_source_fails_the_build_and_leaves_the_old_module(project):
    assert answer(project) == 1
    later(project / "src" / "answer.c", "int al_tiny_answer(void) { return }\n")
    assert run_build(project).returncode != 0
    later(project / "src" / "answer.c", TINY_ANSWER)
    assert answer(project) == 1


@pytest.fixture
def bundling(project):
    """The project with something for libev's source."""
    put(project / "libev" / "ev.c", TINY_LIBEV)
    put(project / "libev" / "ev_epoll.c")
    put(project / "libev" / "ev.h")
    put(project / "libev" / "LICENSE", "the licence of libev\n")
    text = TINY_ANSWER.replace(
        "{\n",
        """{
#ifdef AL_BUNDLED_LIBEV
    return libev_answer(NULL);
#endif
""",
    )
    include = "#ifdef AL_BUNDLED_LIBEV\n#include <ev.c>\n#endif\n"
    put(project / "src" / "answer.c", include + text)
    return project


def test_bundled_libev_is_compiled_in_without_our_warnings(bundling):
    built = run_build(bundling, AIOLOOP_LIBEV="bundled", CFLAGS="-Wall -Wextra")
    assert (built.returncode, "ev.c" in built.stderr) == (0, False), built.stderr
    assert answer(bundling, AIOLOOP_LIBEV="bundled") == 100
    assert answer(bundling, AIOLOOP_LIBEV="system") == 1
    assert answer(bundling, AIOLOOP_LIBEV="bundled") == 100


def make(project, command, **environment):
    """Run a command of setup.py; return the archive that it made."""
    made = subprocess.run(
        [sys.executable, "setup.py", "-q", command],
        cwd=project,
        env=clean_environment(**environment),
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert made.returncode == 0, made.stderr
    (archive,) = (project / "dist").iterdir()
    return archive


def test_source_archive_holds_libev_and_builds_from_it(bundling):
    archive = make(bundling, "sdist", AIOLOOP_LIBEV="bundled")
    with tarfile.open(archive) as opened:
        opened.extractall(bundling / "unpacked", filter="data")
    (unpacked,) = (bundling / "unpacked").iterdir()
    held = {path.name for path in (unpacked / "libev").iterdir()}
    assert held == {"ev.c", "ev.h", "ev_epoll.c", "LICENSE"}
    assert answer(unpacked, AIOLOOP_LIBEV="bundled") == 100


def test_source_archive_depends_on_contents_alone(bundling):
    first = make(bundling, "sdist", SOURCE_DATE_EPOCH="1700000000").read_bytes()
    other = bundling / "elsewhere"
    other.mkdir()
    for name in ("setup.py", "pyproject.toml", "LICENSE", "README.md"):
        shutil.copyfile(bundling / name, other / name)
    for name in ("aioloop", "src", "libev"):
        shutil.copytree(bundling / name, other / name, copy_function=shutil.copyfile)
    (other / "README.md").chmod(0o600)
    second = make(other, "sdist", SOURCE_DATE_EPOCH="1700000000")
    assert second.read_bytes() == first
    with tarfile.open(second) as opened:
        members = opened.getmembers()
    assert {info.mtime for info in members} == {1700000000}
    assert {(info.uid, info.gid, info.uname) for info in members} == {(0, 0, "")}


@pytest.mark.parametrize("bundled", [True, False])
def test_wheel_says_which_licences_are_in_it(bundling, bundled):
    if not bundled:
        shutil.rmtree(bundling / "libev")
        put(bundling / "include" / "ev.h")
    more = {"AIOLOOP_LIBEV": "bundled"} if bundled else {"LIBEV_PREFIX": str(bundling)}
    with zipfile.ZipFile(make(bundling, "bdist_wheel", **more)) as wheel:
        names = [name.partition(".dist-info/")[2] for name in wheel.namelist()]
        (metadata,) = (name for name in wheel.namelist() if name.endswith("/METADATA"))
        lines = wheel.read(metadata).decode().splitlines()
    assert ("licenses/libev/LICENSE" in names) is bundled
    assert "licenses/LICENSE" in names
    licence = "MIT AND BSD-2-Clause" if bundled else "MIT"
    assert f"License-Expression: {licence}" in lines


@pytest.mark.skipif(not shutil.which("nm"), reason="needs nm of binutils")
def test_only_the_init_function_is_exported():
    from aioloop import _core

    shown = subprocess.run(
        ["nm", "-D", "--defined-only", _core.__file__],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    linker = {"_init", "_fini", "_edata", "_end", "__bss_start"}
    names = {line.split()[-1] for line in shown.stdout.splitlines()}
    assert names - linker == {"PyInit__core"}


@pytest.mark.skipif(FREE_THREADED, reason="it has been compiled for this Python")
@pytest.mark.skipif(sys.version_info < (3, 13), reason="there is always a GIL")
def test_every_file_compiles_for_a_free_threaded_python_of_this_version():
    """3.14's and 3.15's are not tried otherwise."""
    compiler = sysconfig.get_config_var("CC").split()[0]
    options = ["-std=c11", "-fsyntax-only", "-Wall", "-Werror", "-DPy_GIL_DISABLED=1"]
    options += ["-Isrc", f"-I{sysconfig.get_path('include')}"]
    files = sorted(map(str, Path(TREE, "src").rglob("*.c")))
    command = [compiler, *options, *files]
    done = subprocess.run(command, cwd=TREE, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
