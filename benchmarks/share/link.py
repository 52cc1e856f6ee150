"""A slow link: passes bytes on between clients and a server on loopback.

python -m benchmarks.share.link PORT SERVER_PORT LATENCY RATE

Each request waits LATENCY seconds; all answers share RATE bytes/s.
"""

import argparse
import asyncio
from asyncio import StreamReader, StreamWriter
from contextlib import suppress

PIECE_BYTES = 1 << 18


class Link:
    """The connections of one link."""

    def __init__(self, server_port: int, latency: float, rate: float):
        self._server_port = server_port
        self._latency = latency  # seconds
        self._rate = rate  # bytes/s
        self._free_at = 0.0  # when all that was sent so far has passed

    async def connect(self, reader: StreamReader, writer: StreamWriter) -> None:
        """Pass on what a client and the server send, until one of them ends."""
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self._server_port)
        try:
            with suppress(ConnectionError):
                await asyncio.gather(self._up(reader, to_server), self._down(from_server, writer))
        finally:
            writer.close()
            to_server.close()

    async def _up(self, reader: StreamReader, writer: StreamWriter) -> None:
        while data := await reader.read(PIECE_BYTES):
            await asyncio.sleep(self._latency)
            writer.write(data)
            await writer.drain()
        writer.close()

    async def _down(self, reader: StreamReader, writer: StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        while data := await reader.read(PIECE_BYTES):
            self._free_at = max(self._free_at, loop.time()) + len(data) / self._rate
            await asyncio.sleep(self._free_at - loop.time())
            writer.write(data)
            await writer.drain()
        writer.close()


async def serve(port: int, link: Link) -> None:
    server = await asyncio.start_server(link.connect, "127.0.0.1", port)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("server_port", type=int)
    parser.add_argument("latency", type=float)
    parser.add_argument("rate", type=float)
    arguments = parser.parse_args()
    link = Link(arguments.server_port, arguments.latency, arguments.rate)
    asyncio.run(serve(arguments.port, link))


if __name__ == "__main__":
    main()
