"""Builds the programs of this folder and runs them: ``python -m tests.white SECONDS``.

Each is compiled with AddressSanitizer and UndefinedBehaviorSanitizer and runs for so
many seconds of CPU time. With clang and ``--libfuzzer`` it is a target of libFuzzer.
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
TREE = HERE.parents[1]
NAMES = sorted(path.stem for path in HERE.glob("*.c"))
SANITIZERS = "-fsanitize=address,undefined"


def build(name, folder, libfuzzer=False):
    """Compile a program; return its path."""
    of = sysconfig.get_config_var
    program = Path(folder, name)
    version = of("LDVERSION")
    flags = ["-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-DAL_HARD=1"]
    flags += ["-Wno-unused-function", "-fno-sanitize-recover=all"]
    flags += [SANITIZERS + (",fuzzer" if libfuzzer else "")]
    flags += ["-DLIBFUZZER"] if libfuzzer else []
    places = [f"-I{HERE}", f"-I{TREE / 'src'}", f"-I{sysconfig.get_path('include')}"]
    libraries = [f"-L{of('LIBDIR')}", f"-L{of('LIBPL')}", f"-Wl,-rpath,{of('LIBDIR')}"]
    libraries += [f"-lpython{version}", *of("LIBS").split(), *of("SYSLIBS").split()]
    compiler = "clang" if libfuzzer else "gcc"
    command = [compiler, *flags, *places, HERE / f"{name}.c", "-o", program]
    subprocess.run([*command, *libraries], check=True)
    return program


def environment():
    """Return the environment of a run: CPython itself leaves memory at its end."""
    return {
        **{k: v for k, v in os.environ.items() if k != "LD_PRELOAD"},
        "PYTHONHOME": sys.base_prefix,
        "PYTHONMALLOC": "malloc",
        "ASAN_OPTIONS": "detect_leaks=0",
    }


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.white", description=__doc__)
    parser.add_argument("seconds", type=float, nargs="?", default=60)
    parser.add_argument("--only", choices=NAMES)
    parser.add_argument("--seed", type=int, help="of the first input, else by lot")
    parser.add_argument("--libfuzzer", action="store_true")
    options = parser.parse_args()
    compiler = "clang" if options.libfuzzer else "gcc"
    if shutil.which(compiler) is None:
        parser.error(f"there is no {compiler} here")
    seed = options.seed
    if seed is None:
        seed = random.SystemRandom().getrandbits(40)
    failed = []
    with tempfile.TemporaryDirectory(prefix="aioloop-white-") as folder:
        for name in NAMES if options.only is None else [options.only]:
            program = build(name, folder, options.libfuzzer)
            arguments = [str(options.seconds), str(seed)]
            if options.libfuzzer:
                arguments = [f"-max_total_time={options.seconds:.0f}"]
            print(f"{name}: ", end="", flush=True)
            done = subprocess.run([program, *arguments], env=environment(), cwd=folder)
            failed += [name] if done.returncode else []
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
