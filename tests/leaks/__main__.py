"""The leak tests in a debug build of CPython, which counts all references there are.

    .ci/on 3.14 python -m tests.leaks [PYTEST'S ARGUMENTS...]

It needs one beside this interpreter (Debian's python3.14-dbg), for which the extension
is built.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

TREE = Path(__file__).parents[2]
NOT_HERE = 69  # an interpreter that cannot be had, as .ci/on says it


def main():
    name = "python{}.{}-dbg".format(*sys.version_info)
    if shutil.which(name) is None:
        print(f"########## refs: there is no {name} here ##########", file=sys.stderr)
        return NOT_HERE
    variables = {
        **os.environ,
        "PYTHONPATH": f"{TREE}{os.pathsep}{sysconfig.get_path('purelib')}",
        # Plugins of other packages may need modules in C, which are not for this one.
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    build = [name, "setup.py", "-q", "build_ext", "--inplace"]
    subprocess.run(build, cwd=TREE, env=variables, check=True)
    command = [name, "-m", "pytest", "-q", "-p", "pytest_timeout"]
    command += ["-p", "no:cacheprovider", "--timeout=600", "tests/leaks", *sys.argv[1:]]
    return subprocess.run(command, cwd=TREE, env=variables).returncode


if __name__ == "__main__":
    sys.exit(main())
