"""One HTTP connection pool to milld, and every way in which it may fail told in one line. Called by `Client` and `Resuming`.

The only module that knows httpx; what the calls mean it does not know.
"""

import json
import os
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import httpx

from mill.checks import KEY_HEADER
from mill.client import trust
from mill.client.calls import Call
from mill.client.endpoint import Endpoint
from mill.client.problems import problem
from mill.errors import ConnectionFailed, ProblemError

T = TypeVar("T")

CONNECT_TIMEOUT_S = 10.0
"""To a connection; a machine that is up answers within milliseconds, one that drops packets never."""
IDLE_EXPIRY_S = 4.0
"""How long an idle connection is kept for the next request: less than servers do (hypercorn's default is 5 s), so that
none is used in the very moment in which it is closed."""
_NO_TLS = {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"}
"""What OpenSSL makes of an answer in plain HTTP."""


class ConnectionBroke(ConnectionFailed):
    """There was a connection, and it was lost."""


class Connection:
    """The way to one milld. `reached` turns true with the first answer of any kind, `partial` with the first that says so."""

    def __init__(
        self, endpoint: Endpoint, *, timeout_s: float, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self.endpoint = endpoint
        self.reached = self.partial = False
        self._timeout_s = timeout_s
        headers = {"accept-encoding": "identity"}
        if endpoint.token is not None:
            headers["authorization"] = f"Bearer {endpoint.token}"
        self._http = httpx.AsyncClient(
            headers=headers,
            transport=transport,
            trust_env=not endpoint.local,
            verify=trust.verify(endpoint),
            limits=httpx.Limits(keepalive_expiry=IDLE_EXPIRY_S),
        )

    async def aclose(self) -> None:
        await self._http.aclose()

    async def ask(
        self,
        call: Call[Any],
        *,
        content: AsyncIterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """The answer's JSON as it came; raises `ProblemError` and `ConnectionFailed`."""
        said = {"accept": "application/json", **(headers or {})}
        body: AsyncIterable[bytes] | bytes | None = content
        if call.body is not None:
            body = _body(call)
            said["content-type"] = "application/json"
        if call.key is not None:
            said[KEY_HEADER] = call.key
        with self._told():
            response = await self._http.request(
                call.method,
                self.endpoint.url + call.path,
                params=list(call.params),
                content=body,
                headers=said,
                timeout=self._timeout(self._read_s(call)),
            )
        self.reached = True
        if not response.is_success:
            raise self._problem(response)
        if not response.content:
            return None
        try:
            answer: Any = response.json()
        except ValueError:
            raise self._problem(response) from None
        self.partial = self.partial or (isinstance(answer, dict) and answer.get("partial") is True)
        return answer

    def decode(self, call: Call[T], data: Any) -> T:
        """*data* as the call's value; a shape that this client cannot read is the server's `ProblemError`."""
        try:
            return call.decode(data)
        except (ExceptionGroup, AttributeError, LookupError, TypeError, ValueError) as error:
            raise ProblemError(
                200,
                "unreadable answer",
                f"{self.endpoint.url} answered {call.method} {call.path} with something this client cannot read; "
                "does it run another version of milld?",
            ) from error

    async def stream(
        self,
        path: str,
        params: tuple[tuple[str, str], ...],
        accept: str,
        *,
        thinks_s: float | None,
        call: Call[Any] | None = None,
    ) -> "ByteStream":
        """The body of a GET, or of the answer to *call*, as it comes; it may be silent *thinks_s* beyond a usual answer's
        time (None: for ever).
        """
        read_s = None if thinks_s is None else self._timeout_s + thinks_s
        said, body = {"accept": accept}, None if call is None else _body(call)
        if body is not None:
            said["content-type"] = "application/json"
        with self._told():
            request = self._http.build_request(
                "GET" if call is None else call.method,
                self.endpoint.url + path,
                params=list(params),
                content=body,
                headers=said,
                timeout=self._timeout(read_s),
            )
            response = await self._http.send(request, stream=True)
            self.reached = True
            if not response.is_success:
                try:
                    await response.aread()
                finally:
                    await response.aclose()
        if not response.is_success:
            raise self._problem(response)
        return ByteStream(self, response)

    def _read_s(self, call: Call[Any]) -> float | None:
        return None if call.thinks_s is None else self._timeout_s + call.thinks_s

    def _timeout(self, read_s: float | None) -> httpx.Timeout:
        return httpx.Timeout(
            connect=min(CONNECT_TIMEOUT_S, self._timeout_s), read=read_s, write=self._timeout_s, pool=None
        )

    def _problem(self, response: httpx.Response) -> ProblemError:
        endpoint = self.endpoint
        return problem(response.status_code, response.content, endpoint.url, endpoint.hint)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """The errors of httpx as `ConnectionFailed`, here and nowhere else."""
        try:
            yield
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            raise _failure(error, self.endpoint.url) from error


class ByteStream:
    """The body of one answer. A read that was cancelled breaks it: bytes may be gone."""

    def __init__(self, connection: Connection, response: httpx.Response) -> None:
        self._connection = connection
        self._response = response
        self._chunks: AsyncIterator[bytes] = response.aiter_raw()
        self._broken = False

    async def read(self) -> bytes:
        """Some bytes; none at the true end of the body. Raises `ConnectionFailed` when it broke before that."""
        if self._broken:
            raise ConnectionBroke(f"the connection to milld at {self._connection.endpoint.url} was given up")
        self._broken = True
        with self._connection._told():  # noqa: SLF001 -- a part of it
            async for chunk in self._chunks:
                if chunk:
                    self._broken = False
                    return chunk
        self._broken = False
        return b""

    async def aclose(self) -> None:
        """Closes the connection unless the body was read to its end.

        Reading on then runs httpx' nested generators to their end, for trio complains about each that is left hanging.
        """
        await self._response.aclose()
        with suppress(httpx.HTTPError, httpx.StreamError):
            async for _ in self._chunks:
                pass


def _body(call: Call[Any]) -> bytes | None:
    """Not httpx' own JSON: ours survives a lone surrogate."""
    return None if call.body is None else json.dumps(call.body).encode()


def _failure(error: Exception, url: str) -> ConnectionFailed:
    why = _why(error)
    if isinstance(error, httpx.ConnectTimeout):
        return ConnectionFailed(
            f"cannot reach milld at {url}: no answer; is the address right? set MILL_ADDRESS"
        )
    if isinstance(error, httpx.TimeoutException):
        return ConnectionFailed(f"milld at {url} does not answer in time; is it overloaded or stopped?")
    if isinstance(
        error, httpx.ConnectError | httpx.UnsupportedProtocol | httpx.InvalidURL | httpx.ProxyError
    ):
        if isinstance(cause := _cause(error), ssl.SSLCertVerificationError):
            return ConnectionFailed(f"cannot reach milld at {url}: {trust.told(cause)}")
        if isinstance(cause, ssl.SSLError) and cause.reason in _NO_TLS:
            return ConnectionFailed(f"cannot reach milld at {url}: it speaks plain HTTP there; write http://")
        return ConnectionFailed(f"cannot reach milld at {url}: {why}; is it running? set MILL_ADDRESS")
    return ConnectionBroke(f"the connection to milld at {url} broke: {why}")


def _why(error: BaseException) -> str:
    """The system's own word for it."""
    cause = _cause(error)
    if isinstance(cause, ssl.SSLError) and cause.reason:
        return f"TLS failed ({cause.reason.replace('_', ' ').lower()})"
    if isinstance(cause, OSError) and cause.errno is not None and cause.errno > 0:
        return os.strerror(cause.errno).lower()
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror.lower()
    return str(error).lower().rstrip(".") or type(error).__name__


def _cause(error: BaseException) -> BaseException:
    """The system's own error, found below the layers of libraries, or *error* where there is none."""
    at: BaseException | None = error
    seen: set[int] = set()
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        if isinstance(at, ExceptionGroup):
            at = at.exceptions[0]
            continue
        if isinstance(at, OSError) and (at.errno or at.strerror):
            return at
        at = at.__cause__ or at.__context__
    return error
