"""A toy speaker, a process of its own: `python toy.py SOCKET`. Its protocol is described in the exporter.

Your tests start your real speaker in its place.
"""

from __future__ import annotations

import os
import socketserver
import sys

TABLE: dict[tuple[str, str], str] = {}
"""The next hop of each route, by prefix and mark."""


class Connection(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        for line in self.rfile:
            verb, *words = line.decode().split(" ")
            words = [word.rstrip("\n") for word in words]
            if verb == "add":
                TABLE[words[0], words[2]] = words[1]
            elif verb == "del":
                TABLE.pop((words[0], words[1]), None)
            elif verb.rstrip("\n") == "list":
                for (prefix, mark), hop in TABLE.items():
                    self.wfile.write(f"{prefix} {hop} {mark}\n".encode())
            self.wfile.write(f"hello {os.getpid()}\n".encode() if verb.rstrip("\n") == "hello" else b"ok\n")


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 64


if __name__ == "__main__":
    Server(sys.argv[1], Connection).serve_forever()
