"""HTTP as far as a registry needs it: one request, its redirects, and httpx's failures in Mill's words.

Knows no registry protocol and no credentials but the ``Authorization`` header it is handed, which it drops as soon as a
redirect leaves the origin (RFC 9110 section 11.6.2). Called by `authorization` and `registry`.
"""

import ssl
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy

import attrs
import httpx
import trio

from mill.containerd import reference

CONNECT_TIMEOUT_S = 10.0  # one connection attempt, TLS included
STALL_S = 30.0  # no byte for so long: the connection counts as dead
_REDIRECTS = 5  # hops of one request; blob stores need one or two
_REDIRECT_CODES = frozenset({301, 302, 303, 307, 308})
_CONNECTIONS = 64  # of one client; above what parallel pulls open
_UNKNOWN_ISSUER = frozenset(
    {18, 19, 20, 21}
)  # OpenSSL's codes (X509_V_ERR_...) for a chain that ends nowhere known


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
    """Two clients: `outer` heeds the environment's proxies; `local` is for loopback, where no proxy has a say.

    `special` is by registry: transports that trust a certificate authority of its own, too.
    """

    outer: httpx.AsyncClient
    local: httpx.AsyncClient
    special: Mapping[str, "Transport"] = attrs.field(factory=dict)

    def trusting(self, registry: str) -> "Transport":
        """What to ask *registry* by, and whomever it sends us to: its token service, its blob store."""
        return self.special.get(registry, self)

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
async def open_transport(
    *, authorities: Mapping[str, str] | None = None, stall_s: float = STALL_S
) -> AsyncGenerator[Transport, None]:
    """All clients, closed at the end. Certificates are those that the system trusts (``SSL_CERT_FILE`` overrides).

    *authorities* are PEM files by registry, for whose sake they are trusted beside the system's.
    """
    timeout = httpx.Timeout(stall_s, connect=min(stall_s, CONNECT_TIMEOUT_S), pool=None)
    limits = httpx.Limits(max_connections=_CONNECTIONS)
    headers = {"User-Agent": "mill", "Accept-Encoding": "identity"}
    # A cookie goes to every port of its host, so to registries that never set it; no puller needs one.
    no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=[]))

    async with AsyncExitStack() as clients:

        async def client(context: ssl.SSLContext, *, trust_env: bool) -> httpx.AsyncClient:
            made = httpx.AsyncClient(
                headers=headers,
                verify=context,
                timeout=timeout,
                limits=limits,
                trust_env=trust_env,
                cookies=no_cookies,
            )
            return await clients.enter_async_context(made)

        async def transport(ca: str | None, special: Mapping[str, Transport]) -> Transport:
            context = await trio.to_thread.run_sync(_context, ca)
            outer, local = await client(context, trust_env=True), await client(context, trust_env=False)
            return Transport(outer, local, special)

        special = {host: await transport(ca, {}) for host, ca in (authorities or {}).items()}
        yield await transport(None, special)


def _context(ca: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if ca is not None:
        context.load_verify_locations(ca)
        # From 3.13 on Python wants extensions that many private authorities leave out, and other clients do without.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


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


def retry_after_s(response: httpx.Response, now: float) -> float | None:
    """Seconds to wait by the Retry-After header: a number, or a date (RFC 9110 section 10.2.3)."""
    value = response.headers.get("retry-after", "").strip()
    if value.isdecimal():
        return float(value)
    try:
        return parsedate_to_datetime(value).timestamp() - now
    except (ValueError, OverflowError):
        return None


def _translated(error: httpx.HTTPError) -> Transient | Refused:
    host = error.request.url.host if getattr(error, "_request", None) else "the registry"
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            advice = (
                ": set ca for its registry in milld's configuration"
                if cause.verify_code in _UNKNOWN_ISSUER
                else ""
            )
            return Refused(
                "network", f"the certificate of {host} is not trusted ({cause.verify_message}){advice}"
            )
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
