"""A web server on this machine that serves files, well or badly."""

import contextlib
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


class VideoServer:
    """Serves a folder's files at `url`/NAME. `requests` lists (name, first byte) of all GET requests.

    behave(name, handler, content, count) may answer the count-th GET of a file itself and return True.
    """

    def __init__(self, folder):
        self.folder = folder
        self.requests = []
        self.behave = None
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self):
                self.serve(with_body=False)

            def do_GET(self):
                self.serve(with_body=True)

            def serve(self, with_body):
                name = urlsplit(self.path).path.lstrip("/")  # also where it is a proxy
                wanted = self.headers.get("Range", "bytes=0-")
                start = int(wanted.removeprefix("bytes=").split("-")[0])
                path = server.folder / name
                if with_body:
                    server.requests.append((name, start))
                count = sum(asked == name for asked, _ in server.requests)
                content = path.read_bytes() if path.is_file() else None
                if server.behave and server.behave(name, self, content, count):
                    return
                if content is None:
                    self.refuse(404)
                    return
                self.start(content, start)
                if with_body:
                    with contextlib.suppress(OSError):  # a look at the first bytes is enough for some
                        self.wfile.write(content[start:])

            def start(self, content, start=0):
                self.send_response(206 if "Range" in self.headers else 200)
                self.send_header("Content-Type", "video/mp4")
                self.send_header("Accept-Ranges", "bytes")
                self.send_header("Content-Length", str(len(content) - start))
                if "Range" in self.headers:
                    self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
                self.end_headers()

            def refuse(self, status, **headers):
                self.send_response(status)
                self.send_header("Content-Length", "0")
                for key, value in headers.items():
                    self.send_header(key.replace("_", "-"), value)
                self.end_headers()

            def hang_up(self):
                self.wfile.flush()
                self.close_connection = True
                self.connection.shutdown(2)

            def log_message(self, *_):
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def close(self):
        self._http.shutdown()
        self._http.server_close()


def redirect(handler, address):
    """Answer with another address."""
    handler.refuse(302, Location=address)
    return True


def pour(handler, kind, encoding=None):
    """Answer with a body that does not end."""
    handler.close_connection = True
    handler.send_response(200)
    handler.send_header("Content-Type", kind)
    if encoding:
        handler.send_header("Content-Encoding", encoding)
    handler.end_headers()
    with contextlib.suppress(OSError):  # the other side has enough
        while True:
            handler.wfile.write(bytes(1 << 16) if kind != "text/html" else b"<html>" + b" " * (1 << 16))
    return True


def drop_halfway(name, handler, content, count):
    """The second GET, which is the download itself, breaks off in the middle."""
    if count != 2:
        return False
    handler.start(content)
    handler.wfile.write(content[:len(content) // 2])
    handler.hang_up()
    return True


def trickle(name, handler, content, count):
    """The download comes in small pieces with pauses."""
    if count < 2:
        return False
    handler.start(content)
    for first in range(0, len(content), 2000):
        handler.wfile.write(content[first:first + 2000])
        handler.wfile.flush()
        time.sleep(0.005)
    return True
