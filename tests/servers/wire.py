"""A wire to a real server: passes TCP on, counts what comes back, and can be cut."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit


class Wire:
    """One way to a server.

    Attributes:
        endpoint: Its address on this side.
        num_bytes: What has come back, headers and all.
    """

    def __init__(self, server: str, cut_after: int | None, away_seconds: float) -> None:
        self.num_bytes = 0
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
            writer.write(data)
        writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await _read(reader):
            self.num_bytes += len(data)
            writer.write(data)
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
def wire(server: str, *, cut_after: int | None = None, away_seconds: float = 0.0) -> Iterator[Wire]:
    """A wire that is cut once.

    Args:
        server: The server's address.
        cut_after: Bytes that come back before it breaks; None = it holds.
        away_seconds: How long nobody answers then.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    one = Wire(server, cut_after, away_seconds)

    asyncio.run_coroutine_threadsafe(one.open(), loop).result()
    try:
        yield one
    finally:
        asyncio.run_coroutine_threadsafe(one.stop(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
