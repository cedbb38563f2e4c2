"""The REST API of `FakeNode` on a real loopback port, for clients under any event loop and commands in other processes.

Faults: `cuts` breaks connections of logs and events, `stop_listening` and `listen` make milld vanish and come back.

Over 400 lines because one fake answers the whole API.
"""

import json
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

import attrs
import h11
import outcome
import trio

from mill.convert import format_time, from_json, to_json
from mill.errors import Conflict, FieldError, MillError, NoCapacity, NodeError, NotFound, Unauthorized
from mill.model import Draft, Image, PullRequest, SpawnRequest, Status, Template, Time, Usage
from tests.client.fake_node import EPOCH, FakeNode, FakeTask

T = TypeVar("T")
TOKEN = "fake-token"


@attrs.define(eq=False)
class Request:
    method: str
    path: str
    params: list[tuple[str, str]]
    headers: dict[str, str]
    body: bytes = b""

    def param(self, name: str, default: str | None = None) -> str | None:
        return dict(self.params).get(name, default)


@attrs.define(eq=False)
class Cut:
    """How the next connection of a log or of events ends: after so many objects, cleanly or torn, with half an object sent, or
    with the word that the task's own node was lost."""

    after: int
    clean: bool = False
    half: bool = False
    lost: bool = False


class FakeApi(FakeNode):
    def __init__(self) -> None:
        super().__init__()
        self.requests: list[Request] = []
        self.loaded: list[bytes] = []
        self.cuts: list[Cut] = []
        self.pulls: list[Any] = []
        self.waiting, self.left, self.go_on = threading.Event(), threading.Event(), trio.Event()
        self.answers: dict[str, tuple[int, bytes]] = {}
        self.lost_answers = 0
        """So many posts are done, and then the connection breaks."""
        self.partial = False
        """Its events are told with a doubt."""
        self.keys: dict[str, Any] = {}
        self.port = 0
        self.poll_limit_s = 60.0
        self._listening: trio.CancelScope | None = None
        self._listeners: list[trio.SocketListener] = []
        self._trio: trio.lowlevel.TrioToken | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def do(self, action: Callable[[], T]) -> T:
        """From the test's thread, which may run a trio of its own: *action* within the server's."""
        done: SimpleQueue[outcome.Outcome[T]] = SimpleQueue()
        assert self._trio is not None
        self._trio.run_sync_soon(lambda: done.put(outcome.capture(action)))
        return done.get(timeout=10).unwrap()

    async def serve(self, *, task_status: trio.TaskStatus[None]) -> None:
        self._trio = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as nursery:
            self.nursery = nursery
            await self.listen()
            task_status.started()
            await trio.sleep_forever()

    async def listen(self) -> None:
        assert self.nursery is not None
        listeners = await trio.open_tcp_listeners(self.port, host="127.0.0.1")
        self._listeners = listeners
        self.port = listeners[0].socket.getsockname()[1]
        await self.nursery.start(self._listen, listeners)

    async def _listen(
        self, listeners: list[trio.SocketListener], *, task_status: trio.TaskStatus[None]
    ) -> None:
        with trio.CancelScope() as self._listening:
            async with trio.open_nursery() as connections:
                serve = partial(trio.serve_listeners, handler_nursery=connections)
                await connections.start(serve, self._connection, listeners)
                task_status.started()

    def stop_listening(self) -> None:
        """As if milld was killed: the port refuses, every connection is reset."""
        assert self._listening is not None
        for listener in self._listeners:
            listener.socket.close()
        self._listening.cancel()

    def comes_back_after(self, delay_s: float) -> None:
        async def later() -> None:
            await trio.sleep(delay_s)
            await self.listen()

        assert self.nursery is not None
        self.nursery.start_soon(later)

    async def _connection(self, stream: trio.SocketStream) -> None:
        wire = h11.Connection(h11.SERVER)
        try:
            while True:
                request = await self._request(wire, stream)
                if request is None:
                    break
                self.requests.append(request)
                await self._answer(wire, stream, request)
                if wire.our_state is not h11.DONE:
                    break
                wire.start_next_cycle()
        except (trio.BrokenResourceError, trio.ClosedResourceError, h11.ProtocolError):
            pass
        finally:
            await trio.aclose_forcefully(stream)

    async def _request(self, wire: h11.Connection, stream: trio.SocketStream) -> Request | None:
        request: Request | None = None
        while True:
            event = wire.next_event()
            if event is h11.NEED_DATA:
                wire.receive_data(await stream.receive_some())
            elif isinstance(event, h11.Request):
                parts = urlsplit(event.target.decode())
                headers = {key.decode(): value.decode() for key, value in event.headers}
                params = parse_qsl(parts.query, keep_blank_values=True)
                request = Request(event.method.decode(), unquote(parts.path), params, headers)
            elif isinstance(event, h11.Data):
                assert request is not None
                request.body += event.data
            elif isinstance(event, h11.EndOfMessage):
                return request
            else:
                return None

    async def _answer(self, wire: h11.Connection, stream: trio.SocketStream, request: Request) -> None:
        try:
            if request.headers.get("authorization") != f"Bearer {TOKEN}":
                raise Unauthorized("no token that this node knows")
            if request.path in self.answers:
                status, body = self.answers[request.path]
                await self._send(wire, stream, status, body)
                return
            if request.path.endswith("/logs"):
                await self._logs(wire, stream, request)
                return
            if request.path == "/v1/images/pull":
                await self._pull(wire, stream, request)
                return
            if request.path == "/v1/events":
                await self._stream(wire, stream, "text/event-stream", self._blocks(request))
                return
            status, data = await self._route(request)
            if request.method == "POST" and self.lost_answers:
                self.lost_answers -= 1
                raise trio.ClosedResourceError
        except MillError as error:
            await self._problem(wire, stream, error)
            return
        await self._send(wire, stream, status, b"" if data is None else json.dumps(data).encode())

    async def _problem(self, wire: h11.Connection, stream: trio.SocketStream, error: MillError) -> None:
        said: dict[str, Any] = {
            "type": f"urn:mill:problem:{error.slug}",
            "title": error.title,
            "status": error.status,
            "detail": str(error),
        }
        if isinstance(error, FieldError):
            said |= {"field": error.field, "detail": error.message}
        extra = [("retry-after", "1")] if isinstance(error, NodeError) else []
        await self._send(
            wire, stream, error.status, json.dumps(said).encode(), "application/problem+json", extra
        )

    async def _send(
        self,
        wire: h11.Connection,
        stream: trio.SocketStream,
        status: int,
        body: bytes,
        kind: str = "application/json",
        extra: list[tuple[str, str]] | None = None,
    ) -> None:
        headers = [("content-type", kind), ("content-length", str(len(body))), *(extra or [])]
        events = [h11.Response(status_code=status, headers=headers), h11.Data(data=body), h11.EndOfMessage()]
        await stream.send_all(b"".join(wire.send(event) or b"" for event in events))

    async def _route(self, request: Request) -> tuple[int, Any]:  # noqa: C901, PLR0911 -- the table of the API
        match [request.method, *request.path.strip("/").split("/")[1:]]:
            case ["POST", "tasks", "spawn"]:
                key = request.headers.get("idempotency-key", "")
                if key not in self.keys:
                    self.keys[key] = self._spawn_answer(request)
                return 201, self.keys[key]
            case ["GET", "tasks"]:
                return 200, self._page(request)
            case ["GET", "tasks", task_id]:
                return 200, to_json((await self._waited(self._task(task_id), request)).record)
            case ["DELETE", "tasks", task_id]:
                return self._kill_answer(self._task(task_id), request)
            case ["GET", "tasks", task_id, "stats"]:
                return 200, to_json(self.stats(self._task(task_id).record))
            case ["GET", "images"]:
                return 200, {"images": to_json(self.images)}
            case ["DELETE", "images", *parts]:
                return self._remove("/".join(parts))
            case ["POST", "images", "load"]:
                return 200, self._load(request)
            case ["GET", "templates"]:
                return 200, {"templates": to_json(list(self.templates.values()))}
            case [method, "templates", name]:
                return self._template(method, name, request)
            case ["GET", "status"]:
                return 200, to_json(self.status())
        raise NotFound(f"no such path: {request.path}")

    def _task(self, task_id: str) -> FakeTask:
        if task_id not in self.tasks:
            raise NotFound(f"no task {task_id}")
        return self.tasks[task_id]

    def _spawn_answer(self, request: Request) -> Any:
        wanted = from_json(SpawnRequest, json.loads(request.body), strict=True)
        draft: Draft = wanted
        if wanted.task is not None:
            if wanted.task not in self.templates:
                raise NotFound(f"no template {wanted.task!r}; 'mill templates ls' lists them")
            base = self.templates[wanted.task].draft
            draft = wanted.over(SpawnRequest(**attrs.asdict(base, recurse=False)))
        if draft.image is None:
            raise FieldError("image", "is missing")
        if draft.cpu is not None and draft.cpu > 64:
            raise FieldError("cpu", "64 cores is all there is here")
        if draft.cpu is not None and draft.cpu > 4:
            raise NoCapacity("no room for 5 cores; free are 2.75 cores and 5G")
        record = self.tasks[self.spawn(draft, wanted.task)].record
        return {"id": record.id, "address": record.address, "node": record.node, "status": str(record.status)}

    def _page(self, request: Request) -> Any:
        statuses = [value for key, value in request.params if key == "status"]
        labels = [value.partition("=")[::2] for key, value in request.params if key == "label"]
        found = []
        for task in reversed(self.tasks.values()):
            record = task.record
            live = not record.status.terminal
            if not (live or statuses or request.param("all") == "true"):
                continue
            if statuses and record.status not in statuses:
                continue
            if any(record.spec.labels.get(key) != value for key, value in labels):
                continue
            if record.template != request.param("template", record.template):
                continue
            if record.node != request.param("node", record.node):
                continue
            if request.param("usage") == "true" and record.status is Status.RUNNING:
                record = attrs.evolve(record, usage=Usage(0.8, 1_288_490_189))
            found.append(record)
        ids = [record.id for record in found]
        after = request.param("after")
        begin = ids.index(after) + 1 if after else 0
        end = begin + int(request.param("limit", "100") or 0)
        more = ids[end - 1] if end < len(found) else None
        return {"tasks": to_json(found[begin:end]), "next": more}

    async def _waited(self, task: FakeTask, request: Request) -> FakeTask:
        until = request.param("wait")
        if until is None:
            return task
        timeout_s = min(float(request.param("timeout", "60") or 0), self.poll_limit_s)
        with trio.move_on_after(timeout_s):
            while not (task.record.status.terminal or task.record.status == until):
                await self.changed.wait()
        return task

    def _kill_answer(self, task: FakeTask, request: Request) -> tuple[int, Any]:
        if task.record.status.terminal:
            return 200, to_json(task.record)
        grace = request.param("grace")
        self.kill(task, request.param("signal"), None if grace is None else float(grace))
        return 202, to_json(task.record)

    def _load(self, request: Request) -> Any:
        self.loaded.append(request.body)
        if not request.body.startswith(b"oci"):
            raise FieldError("archive", "is neither an OCI nor a Docker archive")
        name = request.param("name") or "docker.io/library/loaded:latest"
        image = Image(name, f"sha256:{'ab' * 32}", len(request.body), Time(EPOCH))
        self.images.append(image)
        return {"images": to_json([image])}

    def _remove(self, ref: str) -> tuple[int, Any]:
        if ref not in [image.ref for image in self.images]:
            raise NotFound(f"no image {ref}")
        self.images = [image for image in self.images if image.ref != ref]
        return 204, None

    async def _pull(self, wire: h11.Connection, stream: trio.SocketStream, request: Request) -> None:
        """What is in `pulls`, a line each, after ``pause`` once `go_on` is set; at ``wait`` nothing more comes, and `left` is set
        once the client has gone."""
        wanted = from_json(PullRequest, json.loads(request.body), strict=True)
        headers = [("content-type", "application/x-ndjson"), ("transfer-encoding", "chunked")]
        await stream.send_all(wire.send(h11.Response(status_code=200, headers=headers)) or b"")
        for line in self.pulls:
            if line == "wait":
                self.waiting.set()
                while await stream.receive_some():
                    pass
                self.left.set()
                raise trio.BrokenResourceError
            if line == "pause":
                await self.go_on.wait()
                continue
            said = json.dumps(line).replace("REF", wanted.image).encode() + b"\n"
            for piece in (said[:9], said[9:]):  # torn, as networks do
                await stream.send_all(wire.send(h11.Data(data=piece)) or b"")
        await stream.send_all(wire.send(h11.EndOfMessage()) or b"")

    def _template(self, method: str, name: str, request: Request) -> tuple[int, Any]:
        known = self.templates.get(name)
        if method != "PUT" and known is None:
            raise NotFound(f"no template {name!r}")
        if method != "GET" and known is not None and known.source == "config":
            raise Conflict(f"template {name!r} is defined by the node's configuration file")
        if method == "GET":
            return 200, to_json(known)
        if method == "DELETE":
            del self.templates[name]
            return 204, None
        draft = from_json(Draft, json.loads(request.body), strict=True)
        self.templates[name] = Template(name, draft)
        return 200, to_json(self.templates[name])

    async def _logs(self, wire: h11.Connection, stream: trio.SocketStream, request: Request) -> None:
        lines = self._lines(self._task(request.path.split("/")[3]), request)
        await self._stream(wire, stream, "application/x-ndjson", lines)

    async def _stream(
        self, wire: h11.Connection, stream: trio.SocketStream, kind: str, pieces: AsyncGenerator[bytes, None]
    ) -> None:
        cut = self.cuts.pop(0) if self.cuts else None
        headers = [("content-type", kind), ("transfer-encoding", "chunked")]
        await stream.send_all(wire.send(h11.Response(status_code=200, headers=headers)) or b"")
        sent = 0
        async with aclosing(pieces):
            async for piece in pieces:
                if cut is not None and sent == cut.after:
                    break
                await stream.send_all(wire.send(h11.Data(data=piece)) or b"")
                sent += 1
        if cut is not None and cut.lost:
            said = {
                "type": "urn:mill:problem:unavailable",
                "title": "unavailable",
                "status": 503,
                "detail": "node-9 is lost",
            }
            await stream.send_all(
                wire.send(h11.Data(data=json.dumps({"error": said}).encode() + b"\n")) or b""
            )
        elif cut is not None and not cut.clean:
            if cut.half:
                await stream.send_all(wire.send(h11.Data(data=b'id: {"stream": "stdout", "ti')) or b"")
            raise trio.BrokenResourceError
        await stream.send_all(wire.send(h11.EndOfMessage()) or b"")

    async def _blocks(self, request: Request) -> AsyncGenerator[bytes, None]:
        """Of what was told so far, from behind `after`; an id of another epoch is a gap and all there is."""
        epoch, _, number = (request.param("after") or f"e-{len(self.told)}").rpartition("-")
        at = int(number) if epoch == "e" else 0
        gap = "" if epoch == "e" else 'event: gap\ndata: {"missed": null, "message": "who knows"}\n\n'
        yield f"{gap}: hello\nid: e-{at}\n\n".encode()
        while True:
            while at < len(self.told):
                said = {"time": format_time(EPOCH + at), "task": to_json(self.told[at])}
                if self.partial:
                    said["partial"] = True
                at += 1
                yield f"id: e-{at}\nevent: task\ndata: {json.dumps(said)}\n\n: here\nid: e-{at}\n\n".encode()
            await self.changed.wait()

    async def _lines(self, task: FakeTask, request: Request) -> AsyncGenerator[bytes, None]:
        async with aclosing(self._objects(task, request)) as objects:
            async for said in objects:
                yield json.dumps(said).encode() + b"\n"

    async def _objects(self, task: FakeTask, request: Request) -> AsyncGenerator[dict[str, Any], None]:
        cursor = request.param("cursor")
        tail = request.param("tail")
        at = int(cursor[1:]) if cursor else max(0, len(task.log) - int(tail)) if tail is not None else 0
        wanted = request.param("stream")
        while True:
            while at < len(task.log):
                said = task.log[at]
                at += 1
                if wanted is None or said["stream"] == wanted:
                    yield said
            if task.drained or request.param("follow") != "true":
                return
            await self.changed.wait()


@contextmanager
def running() -> Iterator[FakeApi]:
    """The API in a thread of its own, so that a client under any event loop, or in another process, can use it."""
    api = FakeApi()
    stop: Callable[[], None] = lambda: None  # noqa: E731 -- set by the thread
    started = threading.Event()

    async def main() -> None:
        nonlocal stop
        with trio.CancelScope() as scope:
            token = trio.lowlevel.current_trio_token()
            stop = lambda: token.run_sync_soon(scope.cancel)  # noqa: E731 -- as above
            async with trio.open_nursery() as nursery:
                await nursery.start(api.serve)
                started.set()

    thread = threading.Thread(target=trio.run, args=(main,), name="fake API")
    thread.start()
    assert started.wait(10)
    try:
        yield api
    finally:
        stop()
        thread.join(10)
        assert not thread.is_alive()
