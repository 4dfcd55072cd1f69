"""An HTTP server that drops connections, lies about lengths or does not answer."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

CONTENT = bytes(range(256)) * 2000


class Server(http.server.ThreadingHTTPServer):
    """Serves one content at every address, as badly as it is told."""

    content = CONTENT
    ranges = True  # understands Range
    tells_length = True
    wrong_range = False
    drops: Iterator[int] = iter(())  # after how many bytes to drop each of the next connections
    statuses: Iterator[int] = iter(())  # errors to answer the next requests with
    silent = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str] = []  # the Range of each request
        self.url = f"http://127.0.0.1:{self.server_port}/file.bin"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        server, asked = self.server, self.headers.get("Range", "")
        server.asked.append(asked)
        if server.silent:
            server.silent = False
            threading.Event().wait(1)
            return
        if (status := next(server.statuses, 200)) != 200:
            self.send_error(status)
            return
        content, first = server.content, int(asked.removeprefix("bytes=").rstrip("-") or 0) if server.ranges else 0
        if first >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.end_headers()
            return
        self.send_response(206 if first else 200)
        if first:
            start = first + server.wrong_range
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if server.tells_length:
            self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        self.wfile.write(content[first : first + next(server.drops, len(content))])


def names_in(folder: Path) -> list[str]:
    """All but the locks, which stay."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")
