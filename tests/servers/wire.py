"""A wire to a real server: passes TCP on, counts what comes back, and can be cut."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import urlsplit

Damages = Mapping[str, tuple[bytes, bytes]]


class Wire:
    """One way to a server.

    Attributes:
        endpoint: Its address on this side.
        num_bytes: What has come back, headers and all.
        num_bytes_there: What has gone there.
    """

    def __init__(self, server: str, cut_after: int | None, away_seconds: float, damages: Damages) -> None:
        self.num_bytes = self.num_bytes_there = 0
        self._damages = damages
        self._server_port = urlsplit(server).port
        self._cut_after = cut_after
        self._away_seconds = away_seconds
        self._ends: set[asyncio.StreamWriter] = set()
        self._repair: asyncio.Task[None] | None = None

    async def open(self, port: int = 0) -> None:
        """Takes connections."""
        self._listener = await asyncio.start_server(self._pass, "127.0.0.1", port)
        self._port = self._listener.sockets[0].getsockname()[1]
        self.endpoint = f"http://127.0.0.1:{self._port}"

    async def close(self) -> None:
        """Breaks every connection off and refuses new ones."""
        self._listener.close()
        for end in self._ends:
            if not end.is_closing():
                end.transport.abort()

    async def stop(self) -> None:
        """Closes for good."""
        await self.close()
        if self._repair is not None:
            self._repair.cancel()
        await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()}, return_exceptions=True)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._server_port)
        self._ends |= {writer, there_writer}
        await asyncio.gather(self._ask(reader, there_writer), self._answer(there_reader, writer))

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await _read(reader):
            self.num_bytes_there += len(data)
            writer.write(data.replace(*self._damages.get("there", (b"\0", b"\0"))))
            with contextlib.suppress(ConnectionError):
                await writer.drain()  # no faster than the server takes it
        writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await _read(reader):
            self.num_bytes += len(data)
            writer.write(data.replace(*self._damages.get("back", (b"\0", b"\0"))))
            if self._cut_after is not None and self.num_bytes >= self._cut_after:
                self._cut_after = None
                await self.close()
                self._repair = asyncio.create_task(self._reopen())
        writer.close()

    async def _reopen(self) -> None:
        await asyncio.sleep(self._away_seconds)
        await self.open(self._port)


async def _read(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read(1 << 16)
    except ConnectionError:
        return b""


@contextmanager
def wire(
    server: str, *, cut_after: int | None = None, away_seconds: float = 0.0, damages: Damages | None = None
) -> Iterator[Wire]:
    """A wire that is cut once.

    Args:
        server: The server's address.
        cut_after: Bytes that come back before it breaks; None = it holds.
        away_seconds: How long nobody answers then.
        damages: Bytes that become others on their way ``there`` or ``back``; as many, and few enough to come together.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    one = Wire(server, cut_after, away_seconds, damages or {})

    asyncio.run_coroutine_threadsafe(one.open(), loop).result()
    try:
        yield one
    finally:
        asyncio.run_coroutine_threadsafe(one.stop(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
