"""Run an echo server and then its client, and print what each of them shows.

The programs have port 10000 in their text and run unchanged, so the test starts this
driver in a network namespace of its own where the machine allows it; with
``--loopback`` the driver first brings the loopback interface of that namespace up.
The two commands come as JSON; the result goes to standard output as JSON.
"""

import fcntl
import json
import signal
import socket
import struct
import subprocess
import sys

SIOCSIFFLAGS = 0x8914
IFF_UP_RUNNING = 0x41
LIMIT = 30


def bring_loopback_up():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sH14x", b"lo", IFF_UP_RUNNING)
        fcntl.ioctl(sock, SIOCSIFFLAGS, request)


def main():
    if "--loopback" in sys.argv:
        bring_loopback_up()
    server_command, client_command = json.loads(sys.argv[1])
    server = subprocess.Popen(server_command, stderr=subprocess.PIPE, text=True)
    lines = []
    for line in server.stderr:
        lines.append(line)
        if "starting up on" in line:
            break
    client = None
    if server.poll() is None:
        client = subprocess.run(
            client_command, capture_output=True, text=True, timeout=LIMIT
        )
    server.send_signal(signal.SIGINT)
    _, rest = server.communicate(timeout=LIMIT)
    result = {
        "server": [server.returncode, "".join(lines) + rest],
        "client": client and [client.returncode, client.stdout + client.stderr],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
