"""HTTP servers on this machine, each in a thread that ends with the block."""

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from typing import Any


@contextmanager
def running(server: HTTPServer) -> Iterator[str]:
    """Run a server, and yield its address."""
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def serve(handler: type[BaseHTTPRequestHandler], **arguments: Any) -> Iterator[str]:
    """Answer requests with a handler and its arguments, without its log, and yield the address."""
    quiet = type(handler.__name__, (handler,), {"log_message": lambda self, *args: None})
    with running(ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(quiet, **arguments))) as address:
        yield address
