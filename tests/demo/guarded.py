"""The command in a process that cannot connect to another machine, and says so on stderr if it tries."""

import socket
import sys
from typing import Any

LOCAL = ("127.0.0.1", "::1", "localhost", "0.0.0.0", "", None)
_connect, _getaddrinfo = socket.socket.connect, socket.getaddrinfo


def refuse(host: Any) -> None:
    """Raise an error for a host that is not this machine."""
    name = host.decode() if isinstance(host, bytes) else host
    if name not in LOCAL:
        sys.stderr.write(f"connection to {name}\n")
        raise OSError(f"a connection to {name} was tried")


def connect(self: socket.socket, address: Any) -> None:
    if self.family in (socket.AF_INET, socket.AF_INET6):
        refuse(address[0])
    _connect(self, address)


def getaddrinfo(host: Any, *arguments: Any, **options: Any) -> Any:
    refuse(host)
    return _getaddrinfo(host, *arguments, **options)


if __name__ == "__main__":
    socket.socket.connect = connect  # type: ignore[method-assign]
    socket.getaddrinfo = getaddrinfo  # type: ignore[assignment]
    from modeling_lavis.cli.main import main

    sys.exit(main())
