"""An HTTP server of this process whose answers a function makes: what stands in for a platform's API."""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

Answer = tuple[int, Any]
Route = Callable[[str, str, dict[str, str], Any], Answer]


class Stub:
    """An HTTP server that answers by a function of method, path, query and body."""

    def __init__(self, route: Route) -> None:
        self.asked: list[tuple[str, str]] = []
        lock = threading.Lock()
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                size = int(self.headers.get("content-length") or 0)
                body = json.loads(self.rfile.read(size)) if size else None
                at = urlsplit(self.path)
                query = {key: values[0] for key, values in parse_qs(at.query).items()}
                with lock:
                    stub.asked.append((self.command, at.path))
                    status, content = route(self.command, at.path, query, body)
                data = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PATCH = answer  # noqa: N815

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
