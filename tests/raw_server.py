"""A server that answers with the very bytes that a test gives it, also such as no server should send."""

import socket
import ssl
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType

HANG = None
"""As a reply: the request is read, and nothing ever comes back."""


@dataclass(frozen=True)
class Received:
    """A request as it arrived: `target` is the path with its query, still encoded; `headers` are in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


def reply(
    status: int = 200, body: bytes | str = b"{}", *, length: int | None = None, **headers: str
) -> bytes:
    """The bytes of an answer; `length` may promise another size than the body has."""
    content = body if isinstance(body, bytes) else body.encode()
    fields = {"Content-Type": "application/json", "Connection": "close", **headers}
    fields["Content-Length"] = str(len(content) if length is None else length)
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} Whatever\r\n{lines}\r\n".encode() + content


class RawServer:
    """Answers the n-th request with the n-th reply, and those after the last with the last; then closes.

    The empty reply closes without an answer. `delay` seconds pass before every reply; with `keep_open` the
    connection stays open after it until the client leaves, with `tls` it speaks TLS.
    """

    def __init__(
        self,
        *replies: bytes | None,
        delay: float = 0.0,
        keep_open: bool = False,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._tls = tls
        self._replies = replies
        self._delay = delay
        self._keep_open = keep_open
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._connections: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self.requests: list[Received] = []
        self.arrived = threading.Semaphore(0)
        """Released once for every request."""
        self.left = threading.Semaphore(0)
        """Released once for every client that has left."""

    @property
    def host(self) -> str:
        """Where it listens, with the port."""
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    @property
    def base_url(self) -> str:
        """What a client takes for Peaka."""
        return f"http{'s' if self._tls else ''}://{self.host}/api/v1"

    @property
    def connections(self) -> int:
        """How many connections were opened, also such as no request came by."""
        return len(self._connections)

    def __enter__(self) -> "RawServer":
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join()
        for connection in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads[1:]:
            thread.join()

    def _start(self, target, *args) -> None:
        thread = threading.Thread(target=target, args=args, name="raw-server", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._connections.append(connection)
                self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError), connection:
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
            received = _read_request(connection)
            if received is None:
                return
            with self._lock:
                self.requests.append(received)
                answer = self._replies[min(len(self.requests), len(self._replies)) - 1]
            self.arrived.release()
            time.sleep(self._delay)
            if answer is not None:
                connection.sendall(answer)
                if not self._keep_open:
                    connection.shutdown(socket.SHUT_WR)
            connection.recv(1)
            self.left.release()


def _read_request(connection: socket.socket) -> Received | None:
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = connection.recv(65536)
        if not chunk:
            return None
        data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    while len(body) < int(headers.get("content-length", "0")):
        body += connection.recv(65536)
    return Received(method, target, headers, body)
