"""A plugin for pytest that goes on only where the network is cut off; see run.sh."""

import errno
import fcntl
import os
import socket
import struct

import pytest

SIOCSIFFLAGS, UP, RUNNING = 0x8914, 0x1, 0x40
OUTSIDE = ("192.0.2.1", 443)  # reserved for documentation (RFC 5737): nobody answers there


def raise_loopback() -> None:
    """Give a new network namespace its loopback, which the kernels of notebooks talk through."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh14x", b"lo", UP | RUNNING)
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, request)


class LocalSocket(socket.socket):
    """A socket that reaches this machine only."""

    def connect(self, address):
        self._check(address)
        return super().connect(address)

    def connect_ex(self, address):
        self._check(address)
        return super().connect_ex(address)

    def _check(self, address):
        inside = self.family == socket.AF_UNIX or address[0] in ("127.0.0.1", "::1", "localhost")
        if not inside:
            raise OSError(errno.ENETUNREACH, f"{address[0]}: the network is cut off")


def pytest_sessionstart() -> None:
    if os.environ.get("NETWORK_OFF_BLOCK"):
        socket.socket = LocalSocket
    with socket.socket() as probe:
        probe.settimeout(3)
        try:
            probe.connect(OUTSIDE)
        except OSError as error:
            if error.errno == errno.ENETUNREACH:
                return
    pytest.exit("the network is not cut off", returncode=3)
