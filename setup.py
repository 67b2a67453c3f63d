"""Build of the C extension ``aioloop._core``; everything else is in pyproject.toml.

Environment variables, for developers unless said otherwise:

``AIOLOOP_LIBEV=system`` or ``bundled``
    For everybody: link the system's libev, or compile its source into the extension.
    Unset: the system's where it is found, else the source if that is at hand; for a
    free-threaded Python the other way round. A source archive has it in ``libev``;
    ``.ci/libev-source`` puts it into ``build/libev``.
``LIBEV_PREFIX=DIR``
    For everybody: libev is in ``DIR/include`` and ``DIR/lib``, and nowhere else.
``AIOLOOP_WERROR=1``
    All warnings of the project, as errors.
``AIOLOOP_SANITIZE=1``
    AddressSanitizer and UndefinedBehaviorSanitizer, assertions on, no LTO.
``AIOLOOP_HARD=1``
    The hard build: ``AL_HARD`` is defined, assertions on, no LTO.
``AIOLOOP_PORTABLE=1``
    ``AL_PORTABLE`` is defined: without the system calls that only Linux has.
``AIOLOOP_LYING=1``
    ``AL_LIES`` is defined, as in the sanitizers' and the hard build: the module
    believes what AIOLOOP_LIES says of layouts (``src/base/layout.h``). Assertions on,
    no LTO.
``AIOLOOP_JOBS=N``
    How many compilers run at once (2).
``SOURCE_DATE_EPOCH=SECONDS``
    For everybody: a source archive depends on nothing but its files' contents.

Each combination of these variables and each interpreter has its own object files, and
only what changed is compiled again, headers included.
"""

import fcntl
import gzip
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Distribution, Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.sdist import sdist

FLAVOURS = ("WERROR", "SANITIZE", "HARD", "PORTABLE", "LYING")

# Where libev is looked for when pkg-config does not know it.
PREFIXES = ("/usr", "/usr/local", "/opt/homebrew", "/opt/local", "/usr/pkg", "/sw")

# Where its source is looked for: in a source archive, and as .ci/libev-source puts it.
SOURCES = ("libev", "build/libev")
BUNDLED = "-DAL_BUNDLED_LIBEV"

WARNINGS = shlex.split(
    "-Wall -Wextra -Wconversion -Wsign-conversion -Wshadow -Wcast-qual -Wundef "
    "-Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wwrite-strings -Wvla "
    "-Werror"
)

LIBEV_MISSING = """\
aioloop: libev and its header ev.h are needed, and were not found ({where}).
    Debian, Ubuntu:  apt-get install libev-dev
    Fedora:          dnf install libev-devel
    Alpine:          apk add libev-dev
    macOS:           brew install libev
If libev is elsewhere, set LIBEV_PREFIX to the folder of its include/ and lib/.
A wheel needs no libev, and neither does a source archive, which has libev in it."""

SOURCE_MISSING = """\
aioloop: AIOLOOP_LIBEV=bundled needs libev's source in one of these folders: {where}.
In a clone on Debian or Ubuntu, .ci/libev-source puts it there."""

WRONG_CHOICE = "aioloop: AIOLOOP_LIBEV is {choice!r}; it can be 'system' or 'bundled'."

PYTHON_MISSING = """\
aioloop: the C headers of Python {version} are needed; {where}/Python.h is missing.
    Debian, Ubuntu:  apt-get install python{version}-dev
    Fedora:          dnf install python3-devel
    Alpine:          apk add python3-dev
    macOS:           brew install python@{version}"""

COMPILER_MISSING = """\
aioloop: the C compiler {compiler!r} is needed, and was not found.
    Debian, Ubuntu:  apt-get install gcc libc6-dev
    Fedora:          dnf install gcc
    Alpine:          apk add gcc musl-dev
    macOS:           xcode-select --install"""


def pkg_config_libev():
    """Return libev's compiler and linker flags, or None if pkg-config has none."""
    command = shlex.split(os.environ.get("PKG_CONFIG", "pkg-config"))
    try:
        found = subprocess.run(
            [*command, "--cflags", "--libs", "libev"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
    except OSError:
        return None
    if found.returncode != 0:
        return None
    flags = shlex.split(found.stdout)
    is_link = [flag.startswith(("-L", "-l", "-Wl,")) for flag in flags]
    return (
        [flag for flag, link in zip(flags, is_link, strict=True) if not link],
        [flag for flag, link in zip(flags, is_link, strict=True) if link],
    )


def system_libev(prefixes, pkg_config):
    """Return (compiler flags, linker flags) for an installed libev, or None."""
    prefix = os.environ.get("LIBEV_PREFIX")
    if prefix:
        prefixes = (prefix,)
    elif (flags := pkg_config()) is not None:
        return flags
    for prefix in prefixes:
        for include in (Path(prefix, "include"), Path(prefix, "include", "libev")):
            if (include / "ev.h").is_file():
                if include == Path("/usr/include"):
                    return [], ["-lev"]
                return [f"-I{include}"], [f"-L{Path(prefix, 'lib')}", "-lev"]
    return None


def libev_source():
    """Return the folder of libev's source, or None if it is not at hand."""
    return next((place for place in SOURCES if Path(place, "ev.c").is_file()), None)


def find_libev(prefixes=PREFIXES, pkg_config=pkg_config_libev):
    """Return (compiler flags, linker flags) for libev, or end with a clear error."""
    choice = os.environ.get("AIOLOOP_LIBEV", "")
    if choice not in ("", "system", "bundled"):
        raise SystemExit(WRONG_CHOICE.format(choice=choice))
    # The system's ends the process if a thread closes a number that the loop is about
    # to watch: see src/core/poll.c. Without a GIL that is likelier.
    free_threaded = sysconfig.get_config_var("Py_GIL_DISABLED")
    wanted = choice or os.environ.get("LIBEV_PREFIX")
    if free_threaded and not wanted and libev_source():
        choice = "bundled"
    if choice != "bundled":
        flags = system_libev(prefixes, pkg_config)
        if flags is not None:
            return flags
    # Who names the system's libev or its folder gets no other.
    if choice == "bundled" or not (choice or os.environ.get("LIBEV_PREFIX")):
        if source := libev_source():
            return [BUNDLED, f"-isystem{source}"], []
        if choice:
            raise SystemExit(SOURCE_MISSING.format(where=", ".join(SOURCES)))
    prefix = os.environ.get("LIBEV_PREFIX")
    looked = [
        str(Path(place, "include")) for place in ([prefix] if prefix else prefixes)
    ]
    where = ", ".join(looked if prefix else ["pkg-config", *looked])
    raise SystemExit(LIBEV_MISSING.format(where=f"looked at {where}"))


def check_python_headers(include=None):
    """End with a clear error where the interpreter's C headers are not installed."""
    include = include or sysconfig.get_path("include")
    if not Path(include, "Python.h").is_file():
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise SystemExit(PYTHON_MISSING.format(version=version, where=include))


def check_compiler(command):
    """End with a clear error where the C compiler is not installed."""
    if not shutil.which(command[0]):
        raise SystemExit(COMPILER_MISSING.format(compiler=command[0]))


def is_clang(command):
    """Say whether the compiler is clang, whatever its name is."""
    version = subprocess.run([*command, "--version"], capture_output=True, text=True)
    return "clang" in version.stdout


def flavour_flags(flavour, clang):
    """Return (compiler flags, linker flags) for a set of flavours."""
    compile_flags = ["-std=c11", "-fvisibility=hidden"]
    link_flags = []
    if "WERROR" in flavour:
        compile_flags += WARNINGS
    for name in ("HARD", "PORTABLE"):
        if name in flavour:
            compile_flags += [f"-DAL_{name}"]
    if {"HARD", "SANITIZE", "LYING"}.intersection(flavour):
        compile_flags += ["-DAL_LIES"]
    if "SANITIZE" in flavour:
        sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
        compile_flags += [*sanitizers, "-fno-omit-frame-pointer", "-UNDEBUG", "-g"]
        return [*compile_flags, "-O1"], sanitizers
    if "HARD" in flavour or "LYING" in flavour:
        return [*compile_flags, "-UNDEBUG", "-g", "-O1"], link_flags
    lto = "-flto" if clang else "-flto=auto"
    compile_flags += ["-O3", lto]
    if sys.platform != "darwin":
        link_flags += ["-Wl,--as-needed"]
    return compile_flags, [*link_flags, "-O3", lto]


class BuildCore(build_ext):
    """The extension's build: flavours, incremental and parallel compilation."""

    def finalize_options(self):
        """Give each flavour and interpreter its own folder under the build folder."""
        self.flavour = [
            name for name in FLAVOURS if os.environ.get(f"AIOLOOP_{name}", "0") != "0"
        ]
        given_temp = self.build_temp is not None
        given_lib = self.build_lib is not None
        super().finalize_options()
        name = "-".join(self.flavour).lower() or "release"
        if os.environ.get("AIOLOOP_LIBEV"):
            name = f"{name}-{os.environ['AIOLOOP_LIBEV']}"
        place = Path("build", f"{name}-{sysconfig.get_config_var('SOABI')}")
        if not given_temp:
            self.build_temp = str(place)
        if self.inplace and not given_lib:
            self.build_lib = str(place / "lib")

    def run(self):
        """Build under a lock, so that two builds of one tree do not mix."""
        check_python_headers()
        Path(self.build_temp).mkdir(parents=True, exist_ok=True)
        with Path(self.build_temp, "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            super().run()

    def build_extension(self, ext):
        """Compile what changed and link; skip both where nothing changed."""
        command = self.compiler.compiler_so
        check_compiler(command)
        ev_compile, ev_link = find_libev()
        compile_flags, link_flags = flavour_flags(self.flavour, is_clang(command))
        ext.extra_compile_args = [*ev_compile, *compile_flags]
        ext.extra_link_args = [*link_flags, *ev_link]
        record = Path(self.build_temp, "record")
        flags = flags_digest(self.compiler, ext)
        wanted = "\n".join([flags, *ext.sources])
        last = record.read_text() if record.is_file() else ""
        self.recompile = not last.startswith(flags)
        if last != wanted:
            # Links again, also where a source file has only gone.
            Path(self.get_ext_fullpath(ext.name)).unlink(missing_ok=True)
            record.unlink(missing_ok=True)
        self.compiler.compile = self.compile_changed
        super().build_extension(ext)
        record.write_text(wanted)

    def compile_changed(
        self,
        sources,
        output_dir=None,
        macros=None,
        include_dirs=None,
        debug=False,
        extra_preargs=None,
        extra_postargs=None,
        depends=None,
    ):
        """Stand in for the compiler object's ``compile``: stale objects, N at once."""
        compiler = self.compiler
        macros, objects, extra, pp_opts, build = compiler._setup_compile(
            output_dir, macros, include_dirs, sources, depends, extra_postargs
        )
        cc_args = compiler._get_cc_args(pp_opts, debug, extra_preargs)
        stale = [name for name in objects if self.recompile or is_stale(Path(name))]

        def compile_one(name):
            source, extension = build[name]
            dependencies = ["-MD", "-MF", f"{name}.d"]
            compiler._compile(
                name, source, extension, [*cc_args, *dependencies], extra, pp_opts
            )

        with ThreadPoolExecutor(int(os.environ.get("AIOLOOP_JOBS", "2"))) as pool:
            for _ in pool.map(compile_one, stale):
                pass
        return objects

    def copy_extensions_to_source(self):
        """Put the built file into the package, in one step and only if it differs."""
        package = self.get_finalized_command("build_py").get_package_dir("aioloop")
        for ext in self.extensions:
            built = Path(self.build_lib, self.get_ext_filename(ext.name))
            placed = Path(package, built.name)
            if not same_file(built, placed):
                staged = placed.with_name(f"{placed.name}.{os.getpid()}")
                shutil.copy2(built, staged)
                staged.replace(placed)


def flags_digest(compiler, ext):
    """Return a digest of all that an object file depends on besides its sources."""
    parts = [
        sys.version,
        *compiler.compiler_so,
        *compiler.linker_so,
        *ext.extra_compile_args,
        *ext.extra_link_args,
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def is_stale(target):
    """Say whether an object file is older than a file that its compiler read."""
    listing = Path(f"{target}.d")
    if not target.is_file() or not listing.is_file():
        return True
    made = target.stat().st_mtime_ns
    names = listing.read_text().replace("\\\n", " ").partition(": ")[2]
    for name in names.replace("\\ ", "\0").split():
        path = Path(name.replace("\0", " "))
        if not path.is_file() or path.stat().st_mtime_ns >= made:
            return True
    return False


def same_file(one, other):
    """Say whether a file is an untouched copy of another."""
    if not other.is_file():
        return False
    first, second = one.stat(), other.stat()
    return (first.st_size, first.st_mtime_ns) == (second.st_size, second.st_mtime_ns)


class WithLibev(Distribution):
    """A distribution that says which licences are in it."""

    def parse_config_files(self, *args, **keywords):
        """Read pyproject.toml, and add libev's licence where libev is bundled."""
        super().parse_config_files(*args, **keywords)
        try:
            flags, _ = find_libev()
        except SystemExit:
            return  # The build says so, if there is one.
        if BUNDLED in flags:
            self.metadata.license_expression = "MIT AND BSD-2-Clause"
            self.metadata.license_files.append(f"{libev_source()}/LICENSE")


class SourceArchive(sdist):
    """A source archive that is the same wherever and whenever it is made."""

    def make_archive(self, base_name, format, root_dir=None, base_dir=None, **owners):
        """Leave out owners, times and the order of folders, if a date is given."""
        epoch = os.environ.get("SOURCE_DATE_EPOCH")
        if not epoch or format != "gztar":
            return super().make_archive(
                base_name, format, root_dir=root_dir, base_dir=base_dir, **owners
            )
        name = f"{base_name}.tar.gz"
        top = Path(root_dir or ".")
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        with (
            open(name, "wb") as raw,
            gzip.GzipFile("", "wb", 9, raw, mtime=0) as packed,
            tarfile.open(
                fileobj=packed, mode="w", format=tarfile.PAX_FORMAT
            ) as archive,
        ):
            for path in sorted((top / base_dir).rglob("*")):
                if path.is_file():
                    info = tarfile.TarInfo(path.relative_to(top).as_posix())
                    info.size = path.stat().st_size
                    info.mode = 0o755 if os.access(path, os.X_OK) else 0o644
                    info.mtime = int(epoch)
                    with path.open("rb") as file:
                        archive.addfile(info, file)
        return name


def main():
    """Describe the extension to setuptools."""
    core = Extension(
        "aioloop._core",
        sources=sorted(str(path) for path in Path("src").glob("**/*.c")),
        depends=["setup.py", *sorted(str(p) for p in Path("src").glob("**/*.h"))],
        include_dirs=["src"],
    )
    if source := libev_source():
        # What a source archive carries.
        core.depends += sorted(str(path) for path in Path(source).glob("*.[ch]"))
    setup(
        ext_modules=[core],
        distclass=WithLibev,
        cmdclass={"build_ext": BuildCore, "sdist": SourceArchive},
    )


if __name__ == "__main__":
    main()
