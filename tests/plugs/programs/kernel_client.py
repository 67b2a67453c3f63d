"""A client of a Jupyter kernel that runs on aioloop: cells, and the kernel's loops.

Its argument is the command of the kernel, as a kernel.json has it in ``argv``.
"""

import json
import sys

from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import KernelManager

LIMIT = 60
LOOPS = """
import asyncio, json
from ipykernel.kernelapp import IPKernelApp

def kind(loop):
    loop = getattr(loop, "asyncio_loop", loop)
    return f"{type(loop).__module__}.{type(loop).__qualname__}"

app = IPKernelApp.instance()
print(json.dumps({
    "main": kind(asyncio.get_running_loop()),
    "control": kind(app.control_thread.io_loop),
    "iopub": kind(app.iopub_thread.io_thread.io_loop
                  if hasattr(app.iopub_thread, "io_thread")
                  else app.iopub_thread.io_loop),
}))
"""
AWAIT = """
async def count():
    for number in range(20):
        await asyncio.sleep(0.001)
        yield number

print(sum([number async for number in count()]))
print(len(await asyncio.gather(*(asyncio.sleep(0.001) for _ in range(1000)))))
"""


def execute(client, code):
    """Run a cell and return what it prints."""
    shown = []

    def show(message):
        if message["msg_type"] == "stream":
            shown.append(message["content"]["text"])

    reply = client.execute_interactive(code, timeout=LIMIT, output_hook=show)
    assert reply["content"]["status"] == "ok", reply
    return "".join(shown)


def main():
    manager = KernelManager()
    manager._kernel_spec = KernelSpec(
        argv=[sys.executable, *json.loads(sys.argv[1])], display_name="plug"
    )
    manager.start_kernel()
    client = manager.blocking_client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=LIMIT)
        print(execute(client, LOOPS), end="")
        print(execute(client, AWAIT), end="")
        for number in range(50):
            assert execute(client, f"print({number})") == f"{number}\n"
    finally:
        client.stop_channels()
        manager.shutdown_kernel()


if __name__ == "__main__":
    main()
