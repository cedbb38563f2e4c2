"""HTTP as far as a registry needs it: one request, its redirects, and httpx's failures in Mill's words.

Knows no registry protocol and no credentials but the ``Authorization`` header it is handed, which it drops as soon as a
redirect leaves the origin (RFC 9110 section 11.6.2). Called by `authorization` and `registry`.
"""

import ssl
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager

import attrs
import httpx
import trio

from mill.containerd import reference

CONNECT_TIMEOUT_S = 10.0  # one connection attempt, TLS included
STALL_S = 30.0  # no byte for so long: the connection counts as dead
_REDIRECTS = 5  # hops of one request; blob stores need one or two
_REDIRECT_CODES = frozenset({301, 302, 303, 307, 308})
_CONNECTIONS = 64  # of one client; above what parallel pulls open


class Transient(Exception):
    """A failure that may pass. `detail` and the text become a `PullError` when all tries are spent."""

    def __init__(self, detail: str, message: str, *, after_s: float | None = None) -> None:
        super().__init__(message)
        self.detail = detail
        self.message = message
        self.after_s = after_s


class Refused(Exception):
    """A failure that no further try will mend; `detail` as in `PullError`."""

    def __init__(self, detail: str, message: str) -> None:
        super().__init__(message)
        self.detail = detail
        self.message = message


@attrs.frozen
class Transport:
    """Two clients: `outer` heeds the environment's proxies; `local` is for loopback, where no proxy has a say."""

    outer: httpx.AsyncClient
    local: httpx.AsyncClient

    @asynccontextmanager
    async def open(
        self,
        url: str,
        headers: Mapping[str, str],
        *,
        form: Mapping[str, str] | None = None,
    ) -> AsyncGenerator[httpx.Response, None]:
        """The response to a GET (a POST of *form*), its body unread, redirects followed. Raises `Transient` or `Refused`.

        Errors of the connection are translated as long as the block runs, so a body may be read in it.
        """
        try:
            response = await self._send(httpx.URL(url), dict(headers), form)
            try:
                yield response
            finally:
                await response.aclose()
        except httpx.InvalidURL as error:
            raise Refused("invalid", f"{url[:200]!r} is no URL") from error
        except httpx.UnsupportedProtocol as error:
            raise Refused("invalid", f"{url[:200]!r} is neither http nor https") from error
        except httpx.HTTPError as error:
            raise _translated(error) from error

    async def _send(
        self, url: httpx.URL, headers: dict[str, str], form: Mapping[str, str] | None
    ) -> httpx.Response:
        for _ in range(_REDIRECTS + 1):
            client = self.local if reference.is_loopback(url.host) else self.outer
            request = client.build_request("GET" if form is None else "POST", url, headers=headers, data=form)
            response = await client.send(request, stream=True)
            location = response.headers.get("location")
            if response.status_code not in _REDIRECT_CODES or location is None or form is not None:
                return response
            await response.aclose()
            following = url.join(location)
            if following.scheme not in {url.scheme, "https"}:
                raise Refused(
                    "network", f"{url.host} redirects from https to {following.scheme}, which is not followed"
                )
            if origin(following) != origin(url):
                headers.pop("Authorization", None)
            url = following
        raise Refused("network", f"{url.host} redirects without end")


@asynccontextmanager
async def open_transport(*, stall_s: float = STALL_S) -> AsyncGenerator[Transport, None]:
    """Both clients, closed at the end. Certificates are those that the system trusts (``SSL_CERT_FILE`` overrides)."""
    context = await trio.to_thread.run_sync(ssl.create_default_context)
    timeout = httpx.Timeout(stall_s, connect=min(stall_s, CONNECT_TIMEOUT_S), pool=None)
    limits = httpx.Limits(max_connections=_CONNECTIONS)
    headers = {"User-Agent": "mill", "Accept-Encoding": "identity"}

    def client(*, trust_env: bool) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            headers=headers, verify=context, timeout=timeout, limits=limits, trust_env=trust_env
        )

    async with client(trust_env=True) as outer, client(trust_env=False) as local:
        yield Transport(outer, local)


def origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port or {"http": 80, "https": 443}.get(url.scheme)


async def read_bounded(response: httpx.Response, limit_bytes: int) -> bytes:
    """The whole body, `Refused` where it is longer than *limit_bytes* or encoded in a way nobody asked for."""
    body = bytearray()
    if response.headers.get("content-encoding", "identity") != "identity":
        raise Refused("invalid", f"{response.url.host} compressed an answer although it was asked not to")
    async for piece in response.aiter_raw():
        body += piece
        if len(body) > limit_bytes:
            raise Refused(
                "invalid", f"{response.url.host} sent more than the {limit_bytes} bytes allowed here"
            )
    return bytes(body)


def _translated(error: httpx.HTTPError) -> Transient | Refused:
    host = error.request.url.host if getattr(error, "_request", None) else "the registry"
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Refused("network", f"the certificate of {host} is not trusted ({cause.verify_message})")
        if isinstance(cause, ssl.SSLError) and cause.reason in {"WRONG_VERSION_NUMBER", "HTTP_REQUEST"}:
            return Refused("network", f"{host} does not speak TLS: set plain_http for it if that is meant")
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, httpx.ConnectTimeout):
        return Transient("network", f"{host} does not accept connections (timed out)")
    if isinstance(error, httpx.TimeoutException):
        return Transient("network", f"{host} has stopped sending")
    if isinstance(error, httpx.ConnectError):
        return Transient("network", f"no connection to {host} ({_reason(error)})")
    return Transient("network", f"the connection to {host} broke ({_reason(error)})")


def _reason(error: httpx.HTTPError) -> str:
    """The operating system's words if there are any: httpx's own are often "All connection attempts failed"."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror.lower()
        if isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        else:
            cause = cause.__cause__ or cause.__context__
    return str(error) or type(error).__name__
