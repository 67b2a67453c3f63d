"""What ``python -m aioloop --children`` has the programs' child processes import.

Its folder is the first of PYTHONPATH. It leaves no trace but the variable: the folder
goes from sys.path, and the environment's own sitecustomize, if there is one, is
imported in its place. Any Python may come here, also one that aioloop is not for.
"""

import os
import sys

folder = os.path.dirname(__file__)
if os.environ.get("AIOLOOP") != "0" and sys.version_info >= (3, 11):
    import _aioloop_startup

    _aioloop_startup.wait_for_asyncio(os.path.dirname(os.path.dirname(folder)))
sys.path[:] = [entry for entry in sys.path if entry != folder]
sys.path_importer_cache.pop(folder, None)
del sys.modules["sitecustomize"]
# Without another one this raises what site expects, and takes, for "there is none".
import sitecustomize  # noqa: E402, F401
