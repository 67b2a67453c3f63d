"""A plugin of pytest: the tests get a loopback network of their own, where that can be.

Some tests look for a port that nobody has and use it a moment later: two runs on one
machine would meet. Needs Linux, Python 3.12 and the right to make a network.
"""

import fcntl
import os
import socket
import struct

SIOCSIFFLAGS, IFF_UP = 0x8914, 1


def enter_own_network():
    try:
        os.unshare(os.CLONE_NEWNET)
    except (AttributeError, PermissionError):
        return
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sH14x", b"lo", IFF_UP)
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, request)


enter_own_network()
