"""A scorer on a local port, whose manners a test decides."""

import base64
import io
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from PIL import Image


def brightness(png):
    """The mean of a picture, to the last bit the same everywhere."""
    with Image.open(io.BytesIO(base64.b64decode(png))) as image:
        return float(np.asarray(image, dtype=np.float64).mean() / 255)


def scored(request):
    """The answer of a scorer that works: brightness and a little for the length of the prompt."""
    prompts = request.get("prompt", [""] * len(request["images"]))
    values = [
        brightness(p) + len(y) / 1000 for p, y in zip(request["images"], prompts, strict=True)
    ]
    return 200, {"scores": values}


def rated(request):
    """The answer of a judge that works: ten times the brightness."""
    picture = request["messages"][0]["content"][0]["image_url"]["url"].partition(",")[2]
    text = f"It is fairly lit.\nScore: {10 * brightness(picture):.6f}"
    return 200, {"choices": [{"message": {"role": "assistant", "content": text}}]}


class Log:
    """What a server was asked: the JSON of each request, its path and headers, and at once."""

    def __init__(self):
        self.requests, self.paths, self.headers = [], [], []
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()


@contextmanager
def server(answer):
    """Serves `answer`, request -> (status, JSON or text) or (..., headers); yields url and log.

    A status of None is a server that dies in the middle of its answer.
    """
    log = Log()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with log.lock:
                log.requests.append(request)
                log.paths.append(self.path)
                log.headers.append(dict(self.headers))
                log.at_once += 1
                log.most_at_once = max(log.most_at_once, log.at_once)
            try:
                status, body, *headers = answer(request)
            finally:
                with log.lock:
                    log.at_once -= 1
            if status is None:
                self.wfile.write(b"HTTP/1.0 200 OK\r\nContent-Length: 100\r\n\r\n")
                self.wfile.write(body.encode())
                return
            data = (body if isinstance(body, str) else json.dumps(body)).encode()
            try:
                self.send_response(status)
                for name, value in (headers[0] if headers else {}).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
            except OSError:  # the client gave up waiting
                pass

        def log_message(self, *_):
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{httpd.server_port}", log
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()
