"""A judge's server for tests: it answers on this machine, with what a script says."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Answer:
    """What comes back: a chat completion with that text, or, with `body`, whatever that is."""

    text: str | None = ""
    status: int = 200
    seconds: float = 0.0
    model: str = "judge-1"
    body: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def __bytes__(self) -> bytes:
        if self.body is not None:
            return self.body.encode()
        if self.status != 200:
            return json.dumps({"error": {"message": self.text}}).encode()
        message = {"role": "assistant", "content": self.text}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        head = {"id": "1", "object": "chat.completion", "created": 0, "model": self.model}
        return json.dumps({**head, "choices": choices}).encode()


@dataclass
class Served:
    """A running server: where it is, what came in, and how many requests were there at once, at most."""

    url: str
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    most_at_once: int = 0


@contextmanager
def scripted(answer: Callable[[int, dict[str, Any]], Answer]) -> Iterator[Served]:
    """Runs a server that answers the n-th request, counted from 0, as the function says."""
    lock = threading.Lock()
    here = 0

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            nonlocal here
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                nth = len(served.requests)
                served.requests.append(request)
                served.keys.append(self.headers["Authorization"])
                here += 1
                served.most_at_once = max(served.most_at_once, here)
            said = answer(nth, request)
            time.sleep(said.seconds)
            with lock:
                here -= 1
            try:
                self.send_response(said.status)
                for name, value in {"Content-Type": "application/json", **said.headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(bytes(said))))
                self.end_headers()
                self.wfile.write(bytes(said))
            except OSError:  # the client did not wait
                pass

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served = Served(f"http://127.0.0.1:{server.server_port}/v1")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
