"""Builds the programs of this folder and runs them: ``python -m tests.white SECONDS``.

Each is compiled with AddressSanitizer and UndefinedBehaviorSanitizer and runs for so
many seconds of CPU time. With clang and ``--libfuzzer`` it is a target of libFuzzer,
which keeps what it finds in ``build/white``; ``--replay`` runs such an input again.
"""

import argparse
import os
import random
import re
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
FOUND = TREE / "build" / "white"
NOT_HERE = 69  # a tool that is missing, as .ci/on says it


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


def fuzz(program, seconds):
    """Run a target of libFuzzer; return whether it held, and its number of inputs."""
    corpus = FOUND / "corpus" / program.name
    corpus.mkdir(parents=True, exist_ok=True)
    options = [f"-max_total_time={seconds:.0f}", f"-artifact_prefix={FOUND}/"]
    done = subprocess.run(
        [program, *options, corpus],
        env=environment(),
        cwd=program.parent,
        stderr=subprocess.PIPE,
        text=True,
    )
    ran = re.search(r"Done (\d+) runs", done.stderr)
    if done.returncode:
        print(done.stderr[-10_000:])
    return done.returncode == 0, f"{ran and ran[1]} inputs by libFuzzer"


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.white", description=__doc__)
    parser.add_argument("seconds", type=float, nargs="?", default=60)
    parser.add_argument("--only", choices=NAMES)
    parser.add_argument("--seed", type=int, help="of the first input, else by lot")
    parser.add_argument("--libfuzzer", action="store_true")
    parser.add_argument("--replay", metavar="FILE", help="of libFuzzer, with --only")
    options = parser.parse_args()
    libfuzzer = options.libfuzzer or options.replay is not None
    compiler = "clang" if libfuzzer else "gcc"
    if shutil.which(compiler) is None:
        print(
            f"########## white: there is no {compiler} here: NOT RUN ##########",
            file=sys.stderr,
        )
        return NOT_HERE
    seed = options.seed
    if seed is None:
        seed = random.SystemRandom().getrandbits(40)
    failed = []
    with tempfile.TemporaryDirectory(prefix="aioloop-white-") as folder:
        for name in NAMES if options.only is None else [options.only]:
            program = build(name, folder, libfuzzer)
            print(f"{name}: ", end="", flush=True)
            if options.replay is not None:
                command = [program, Path(options.replay).absolute()]
                held = subprocess.run(command, env=environment()).returncode == 0
            elif libfuzzer:
                held, told = fuzz(program, options.seconds)
                print(told)
            else:
                command = [program, str(options.seconds), str(seed)]
                held = subprocess.run(command, env=environment()).returncode == 0
            failed += [] if held else [name]
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
