"""How the sandbox runs: a loop in a thread of its own, and in it an HTTP server whose connections can be broken."""

import asyncio
import ipaddress
import socket
import threading
from collections.abc import Awaitable, Callable
from typing import TypeVar

import uvicorn

from dagster_peaka.sandbox.app import Front
from dagster_peaka.sandbox.sources import SandboxError

T = TypeVar("T")


class Loop:
    """An event loop in its own thread, for the use of all others."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def running(self) -> bool:
        return self._loop is not None

    def start(self) -> None:
        self._loop = asyncio.new_event_loop()
        # A script that fails before its close() is to end all the same.
        self._thread = threading.Thread(target=self._loop.run_forever, name="peaka-sandbox", daemon=True)
        self._thread.start()

    def close(self) -> None:
        assert self._loop is not None, "started before"
        loop, self._loop = self._loop, None
        loop.call_soon_threadsafe(loop.stop)
        self._thread.join()
        loop.close()

    def wait(self, doing: Awaitable[T], timeout: float | None = None) -> T:
        """The result of something that is done in the loop. Raises `asyncio.TimeoutError` after `timeout` seconds."""
        assert self._loop is not None, "started before"
        return asyncio.run_coroutine_threadsafe(asyncio.wait_for(doing, timeout), self._loop).result()

    def call(self, function: Callable[[], T]) -> T:
        """The result of a function called in the loop; at once where there is none any more."""
        if self._loop is None:
            return function()

        async def done() -> T:
            return function()

        return self.wait(done())


class Server:
    """Serves on one port of loopback, its own from `bind` to `close`. Raises `SandboxError` for another host."""

    def __init__(self, host: str, port: int) -> None:
        try:
            loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
        except ValueError:
            loopback = False
        if not loopback:
            raise SandboxError(f"host {host}: the sandbox listens on loopback only, such as 127.0.0.1.")
        self._host, self._port = host, port
        self._socket: socket.socket | None = None
        self._serving: tuple[Front, uvicorn.Server, asyncio.Task[None]] | None = None

    @property
    def address(self) -> str:
        return f"http://{f'[{self._host}]' if ':' in self._host else self._host}:{self._port}"

    def bind(self) -> None:
        """Take the port without listening: connections are refused, and nobody else gets it. Raises `SandboxError`."""
        if not 0 <= self._port <= 65535:
            raise SandboxError(f"port {self._port}: a port is a number from 0 to 65535.")
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        # The protocol is named because asyncio turns off Nagle's delay only where it is TCP for sure.
        bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((self._host, self._port))
        except OSError as error:
            bound.close()
            raise SandboxError(
                f"port {self._port}: it cannot be used ({error.strerror}), choose another one or 0 for a free one."
            ) from None
        self._socket, self._port = bound, bound.getsockname()[1]

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    async def start(self, front: Front) -> None:
        """Returns when it listens."""
        if self._serving is not None or self._socket is None:
            return
        sock, self._socket = self._socket, None
        front.away.clear()
        config = uvicorn.Config(
            front,
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_graceful_shutdown=1,
        )
        server = uvicorn.Server(config)
        self._serving = front, server, asyncio.create_task(server.serve(sockets=[sock]))
        while not server.started and not self._serving[2].done():
            await asyncio.sleep(0.001)

    async def stop(self, *, keeps_port: bool) -> None:
        """Break all connections and refuse new ones; the port may be kept for another start."""
        if self._serving is None:
            return
        (front, server, serving), self._serving = self._serving, None
        front.away.set()
        for listening in server.servers:
            listening.close()
        for connection in list(server.server_state.connections):
            connection.transport.abort()
        server.should_exit = True
        await serving
        if keeps_port:
            self.bind()

    def drop(self, client: tuple[str, int]) -> None:
        """Break one connection, whatever is under way on it."""
        if self._serving is None:
            return
        for connection in list(self._serving[1].server_state.connections):
            if connection.transport.get_extra_info("peername")[:2] == tuple(client):
                connection.transport.abort()
