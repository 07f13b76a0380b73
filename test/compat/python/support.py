"""What the test modules share: both clients of the SDK, an endpoint for the server to deliver to, and waiting for
conditions."""

import asyncio
import atexit
import base64
import dataclasses
import functools
import http.client
import http.server
import importlib
import inspect
import json
import os
import pkgutil
import sys
import threading
import time
import unittest
import urllib.parse
import uuid

import qstash
from qstash import AsyncQStash, QStash

BASE_URL = os.environ["QSTASH_URL"]
TOKEN = os.environ["QSTASH_TOKEN"]
CURRENT_KEY = os.environ["QSTASH_CURRENT_SIGNING_KEY"]
NEXT_KEY = os.environ["QSTASH_NEXT_SIGNING_KEY"]

# Nothing here speaks TLS; without certificates to load, a client is made in a tenth of the time.
os.environ.pop("SSL_CERT_FILE", None)
os.environ["SSL_CERT_DIR"] = os.path.dirname(os.path.abspath(__file__))

DELIVERED = ["CREATED", "ACTIVE", "DELIVERED"]
FAILED = ["CREATED", "ACTIVE", "ERROR", "FAILED"]
CANCELED = ["CREATED", "CANCEL_REQUESTED", "CANCELED"]


def unique(prefix):
    """Returns a name that no other test uses."""
    return f"{prefix}-{uuid.uuid4().hex[:8]}"


def now():
    """Returns the time in Unix milliseconds."""
    return int(time.time() * 1000)


async def eventually(check, within=15):
    """Calls check until it raises no more, and returns what it returned."""
    deadline = time.monotonic() + within
    while True:
        try:
            result = check()
            return await result if inspect.isawaitable(result) else result
        except Exception:
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(0.02)


async def raw(method, path, *, body=None, headers=None):
    """Makes a request that the SDK has no method for, and returns status and decoded body."""

    def request():
        connection = http.client.HTTPConnection(urllib.parse.urlsplit(BASE_URL).netloc)
        try:
            connection.request(method, path, body, {"Authorization": f"Bearer {TOKEN}", **(headers or {})})
            response = connection.getresponse()
            return response.status, json.loads(response.read() or b"null")
        finally:
            connection.close()

    return await asyncio.to_thread(request)


@dataclasses.dataclass
class Request:
    """A request that the server delivered."""

    at: int
    method: str
    url: str
    path: str
    headers: dict  # by lower-case name
    body: bytes


class Endpoint:
    """An HTTP server on this machine that writes down what it is sent."""

    def __init__(self):
        self._lock = threading.Lock()
        self._requests = []
        self._answers = {}
        endpoint = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self):
                try:
                    super().handle_one_request()
                except ConnectionError:  # the server gave the attempt up
                    self.close_connection = True

            def __getattr__(self, name):
                if name.startswith("do_"):
                    return lambda: endpoint._serve(self)
                raise AttributeError(name)

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.origin = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()

    def url(self, path):
        return self.origin + path

    def answer(self, path, *, status=200, headers=None, body=b"", once=None):
        """Sets what a path answers. With once, the first answer has that status."""
        with self._lock:
            self._answers[path] = (once, status, headers or {}, body, None)

    def hold(self, path):
        """Lets requests to a path wait until the returned function is called."""
        released = threading.Event()
        with self._lock:
            self._answers[path] = (None, 200, {}, b"", released)
        return released.set

    def sent(self, path):
        with self._lock:
            return [request for request in self._requests if request.path == path]

    async def received(self, path, count=1):
        """Waits until a path was sent count requests, and returns all it was sent."""

        def check():
            got = self.sent(path)
            assert len(got) >= count, f"got {len(got)} requests to {path}, want {count}"
            return got

        return await eventually(check)

    def _serve(self, handler):
        at = now()
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        path = handler.path.split("?", 1)[0]
        headers = {name.lower(): value for name, value in handler.headers.items()}
        with self._lock:
            first = not any(request.path == path for request in self._requests)
            self._requests.append(Request(at, handler.command, self.origin + handler.path, path, headers, body))
            once, status, extra, text, released = self._answers.get(path, (None, 200, {}, b"", None))
        if released is not None:
            released.wait(60)
        handler.send_response(once if once and first else status)
        for name, value in extra.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(text)))
        handler.end_headers()
        handler.wfile.write(text)


class _Awaitable:
    """A part of the synchronous client, whose methods can be awaited like those of the asynchronous one."""

    def __init__(self, part):
        self._part = part

    def __getattr__(self, name):
        method = getattr(self._part, name)

        @functools.wraps(method)
        async def call(*args, **kwargs):
            return await asyncio.to_thread(method, *args, **kwargs)

        return call


class _Synchronous:
    def __init__(self, client):
        self._client = client

    def __getattr__(self, name):
        return _Awaitable(getattr(self._client, name))


class Case(unittest.IsolatedAsyncioTestCase):
    """A test with a client and an endpoint. Each test finds nothing in the server that could still be delivered."""

    maxDiff = None

    def connect(self, **kwargs):
        """Returns a client that finds the server in the environment, as an application does."""
        kwargs = {"token": TOKEN, "retry": False, **kwargs}
        if self.synchronous:
            client = QStash(**kwargs)
            self.addCleanup(client.http._client.close)
            return _Synchronous(client)
        client = AsyncQStash(**kwargs)
        self.addAsyncCleanup(client.http._client.aclose)
        return client

    async def asyncSetUp(self):
        for path in ("/v2/messages", "/v2/dlq"):
            await eventually(lambda: self.clear(path))
        self.endpoint = Endpoint()
        self.addCleanup(self.endpoint.close)
        self.client = self.connect()

    @staticmethod
    async def clear(path):
        status, body = await raw("DELETE", path)
        assert status == 200, body

    async def states(self, message_id):
        """Returns the states of a message in the order in which it went through them."""
        logs = (await self.client.log.list(filter={"message_id": message_id})).logs
        return [log.state.value for log in reversed(logs)]

    async def reaches(self, message_id, want):
        """Waits until a message went through exactly these states."""

        async def check():
            got = await self.states(message_id)
            assert got == want, f"got states {got}, want {want}"

        await eventually(check)

    async def dead_letter(self, message_id):
        """Waits for the dead letter of a message."""

        async def check():
            messages = (await self.client.dlq.list(filter={"message_id": message_id})).messages
            assert len(messages) == 1, f"got {len(messages)} dead letters of {message_id}, want 1"
            return messages[0]

        return await eventually(check)

    async def fail_message(self, path="/fail", **kwargs):
        """Publishes a message that fails at its only attempt, and waits for its dead letter."""
        self.endpoint.answer(path, status=400, headers={"X-Why": "because"}, body=b"Bad things")
        published = await self.client.message.publish_json(url=self.endpoint.url(path), retries=0, **kwargs)
        return await self.dead_letter(published.message_id)

    def assertAround(self, millis, within=60_000):
        self.assertIsInstance(millis, int)
        self.assertLess(abs(millis - now()), within)


def both(tests):
    """Makes two test cases of a class: one for each client of the SDK."""
    module = sys.modules[tests.__module__]
    for synchronous in (True, False):
        name = ("Sync" if synchronous else "Async") + tests.__name__
        case = type(name, (tests, Case), {"synchronous": synchronous, "__module__": tests.__module__})
        setattr(module, name, case)
    return None


def decode(text):
    return base64.b64decode(text).decode()


def dumps(value):
    return json.dumps(value).encode()


def _record():
    """Writes down which public methods of the SDK are called, so that the run can tell which ones no test drives."""
    directory = os.environ.get("COMPAT_CALLS")
    if not directory:
        return
    surface, called = set(), set()

    def wrap(cls, name, method):
        label = f"{cls.__name__}.{name}"
        surface.add(label)

        @functools.wraps(method)
        def recorded(*args, **kwargs):
            called.add(label)
            return method(*args, **kwargs)

        setattr(cls, name, recorded)

    for module in pkgutil.walk_packages(qstash.__path__, "qstash."):
        for cls in vars(importlib.import_module(module.name)).values():
            if not inspect.isclass(cls) or cls.__module__ != module.name:
                continue
            if not (cls.__name__.endswith("Api") or cls.__name__ == "Receiver") or cls.__name__ == "LlmApi":
                continue
            for name, method in list(vars(cls).items()):
                if inspect.isfunction(method) and not name.startswith("_"):
                    wrap(cls, name, method)
    with open(os.path.join(directory, "surface"), "w") as file:
        file.writelines(f"{label}\n" for label in sorted(surface))

    def write():
        with open(os.path.join(directory, "called"), "a") as file:
            file.writelines(f"{label}\n" for label in called)

    atexit.register(write)


_record()
