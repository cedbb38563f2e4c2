"""A registry by the OCI distribution protocol, the pulling half: manifests whole, blobs as a stream that heals itself.

Every failure comes out as `PullError` with one line naming the image, the registry and what to do. Knows nothing of
containerd; `pull` is its caller. Protocol: OCI distribution-spec 1.1, section "Pull"; ranges: RFC 9110 section 14.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import TypeVar

import attrs
import httpx
import trio

from mill.containerd import oci
from mill.containerd.authorization import Authorizer, how_to_log_in
from mill.containerd.oci import Descriptor
from mill.containerd.reference import Reference
from mill.containerd.transport import Refused, Transient, Transport, origin, read_bounded, retry_after_s
from mill.errors import PullError

MANIFEST_LIMIT_BYTES = 4 * 2**20  # what the distribution spec asks registries to take, and no more
_LOGINS = 2  # 401s answered in one request: one for a token that has expired, one for its replacement
_MIRROR_TRIES = 2
_MIRROR_RETRY_AFTER_S = 2.0
_HEALED_BYTES = 2**20  # a connection that brought so much was a good one: tries are counted anew

_ADVICE = {
    "network": "check the network and whether the registry is up",
    "digest": "its copy is damaged, push the image again",
}

T = TypeVar("T")


@attrs.frozen
class Patience:
    """How often and how long a passing failure is waited out. Delays double from `first_s` to `most_s`."""

    tries: int = 5
    first_s: float = 0.25
    most_s: float = 8.0
    retry_after_most_s: float = 60.0  # a registry that asks for more gets asked again after this

    def delay_s(self, failures: int, after_s: float | None) -> float:
        if after_s is not None:
            return min(max(after_s, 0.0), self.retry_after_most_s)
        return min(self.first_s * 2.0 ** (failures - 1), self.most_s)


@attrs.frozen
class Fetched:
    """A manifest or an index as the registry sent it; `digest` was computed from `body`."""

    body: bytes
    content_type: str
    digest: str


@attrs.define(eq=False)
class Registry:
    """All registries: whom to ask is in each reference. `now` is the wall clock, for dates in Retry-After."""

    transport: Transport
    authorizer: Authorizer
    now: Callable[[], float]
    patience: Patience = Patience()
    received_bytes: int = attrs.field(default=0, init=False)
    """Of layers, since milld started; those that were sent twice count twice."""

    def mirrors(self, ref: Reference) -> tuple[Reference, ...]:
        """*ref* as the mirrors of its registry have it, in the order in which to ask them."""
        return self.authorizer.credentials.hosts.mirrors(ref)

    def in_haste(self) -> "Registry":
        """The same for a mirror, which others stand behind: it gets one more try, and soon."""
        haste = attrs.evolve(
            self.patience,
            tries=min(self.patience.tries, _MIRROR_TRIES),
            retry_after_most_s=min(self.patience.retry_after_most_s, _MIRROR_RETRY_AFTER_S),
        )
        return attrs.evolve(self, patience=haste)

    async def manifest(self, ref: Reference, digest: str | None = None) -> Fetched:
        """What *ref* points to, or the manifest *digest* of its repository; checked against digest and header."""
        target = digest or ref.target

        async def once() -> Fetched:
            async with self._get(ref, f"manifests/{target}", accept=oci.ACCEPT) as response:
                body = await read_bounded(response, MANIFEST_LIMIT_BYTES)
                claimed = response.headers.get("docker-content-digest", "")
                content_type = response.headers.get("content-type", "")
            if content_type.startswith("text/html"):
                raise Refused("invalid", f"{ref.pull_host} answered with a web page: is it a registry?")
            found = oci.digest_of(body)
            wanted = digest or ref.digest
            if found != (wanted or found) or (claimed.startswith("sha256:") and claimed != found):
                raise Transient("digest", f"{ref.pull_host} sent a manifest that does not match its digest")
            return Fetched(body, content_type, found)

        return await self._patiently(ref, once)

    async def small_blob(self, ref: Reference, blob: Descriptor, limit_bytes: int) -> bytes:
        """A whole blob of at most *limit_bytes*, its digest checked."""
        if blob.size > limit_bytes:
            raise PullError(
                "invalid", f"cannot pull {ref}: its config has {blob.size} bytes, {limit_bytes} are allowed"
            )

        async def once() -> bytes:
            async with self._get(ref, f"blobs/{blob.digest}") as response:
                body = await read_bounded(response, limit_bytes)
            if oci.digest_of(body) != blob.digest:
                raise Transient(
                    "digest", f"{ref.pull_host} sent a blob that does not match its digest {blob.digest}"
                )
            return body

        return await self._patiently(ref, once)

    async def blob(self, ref: Reference, blob: Descriptor, offset: int = 0) -> AsyncGenerator[bytes, None]:
        """The bytes of *blob* from *offset* on, in pieces of up to 64 KiB, whatever breaks on the way.

        Exactly ``blob.size - offset`` bytes in all. The digest is the caller's to check. Wrap it in `aclosing`.
        """
        failures = 0
        while offset < blob.size:
            start = offset
            try:
                async with (
                    self._get(ref, f"blobs/{blob.digest}", offset=offset) as response,
                    aclosing(_pieces(response, blob, offset)) as pieces,
                ):
                    async for piece in pieces:
                        offset += len(piece)
                        self.received_bytes += len(piece)
                        yield piece
                if offset < blob.size:
                    raise Transient("network", f"{ref.pull_host} ends {blob.digest} too early")  # noqa: TRY301 -- one place counts tries
            except Transient as fault:
                failures = 1 if offset - start >= _HEALED_BYTES else failures + 1
                await self._wait_out(ref, fault, failures)
            except Refused as fault:
                raise PullError(fault.detail, f"cannot pull {ref}: {fault.message}") from fault

    async def _patiently(self, ref: Reference, once: Callable[[], Awaitable[T]]) -> T:
        failures = 0
        while True:
            try:
                return await once()
            except Transient as fault:
                failures += 1
                await self._wait_out(ref, fault, failures)
            except Refused as fault:
                raise PullError(fault.detail, f"cannot pull {ref}: {fault.message}") from fault

    async def _wait_out(self, ref: Reference, fault: Transient, failures: int) -> None:
        """Wait before the next try, or raise `PullError` when that was the last."""
        if failures >= self.patience.tries:
            times = f"{failures} times in a row" if failures > 1 else "once"
            message = f"cannot pull {ref}: {fault.message}, {times}: {_ADVICE[fault.detail]}"
            raise PullError(fault.detail, message) from fault
        await trio.sleep(self.patience.delay_s(failures, fault.after_s))

    @asynccontextmanager
    async def _get(
        self, ref: Reference, path: str, *, accept: str = "*/*", offset: int = 0
    ) -> AsyncGenerator[httpx.Response, None]:
        """A successful response, logged in as far as the registry wants it."""
        scheme = "http" if self.authorizer.credentials.hosts.plain_http(ref.pull_host) else "https"
        url = f"{scheme}://{ref.pull_host}/v2/{ref.repository}/{path}"
        authorization = self.authorizer.held(ref)
        for attempt in range(_LOGINS + 1):
            headers = {"Accept": accept}
            if authorization is not None:
                headers["Authorization"] = authorization
            if offset:
                headers["Range"] = f"bytes={offset}-"
            async with self.transport.trusting(ref.pull_host).open(url, headers) as response:
                # Only the registry itself may ask for a login: a blob store that it redirects to gets no answer
                # (as CVE-2020-15157 taught containerd).
                own = origin(response.url) == origin(httpx.URL(url))
                if response.status_code != httpx.codes.UNAUTHORIZED or not own:
                    self._check_status(ref, path, response, own=own)
                    yield response
                    return
                if attempt == _LOGINS:
                    break
                authorization = await self.authorizer.answer(ref, response, authorization)
        raise Refused(
            "auth",
            f"{ref.pull_host} does not let Mill read {ref.repository}: it does not exist, or {how_to_log_in(ref)}",
        )

    def _check_status(self, ref: Reference, path: str, response: httpx.Response, *, own: bool) -> None:
        status, host = response.status_code, response.url.host if not own else ref.pull_host
        if status in {httpx.codes.OK, httpx.codes.PARTIAL_CONTENT}:
            return
        if status == httpx.codes.TOO_MANY_REQUESTS:
            raise Transient(
                "network",
                f"{host} allows no more requests for now (429; a login may raise its limit)",
                after_s=retry_after_s(response, self.now()),
            )
        if status >= httpx.codes.INTERNAL_SERVER_ERROR:
            after_s = retry_after_s(response, self.now())
            raise Transient("network", f"{host} answered {status}", after_s=after_s)
        if not own:  # a signed address that has expired, mostly: the registry gives a new one
            raise Transient("network", f"{host}, where {ref.pull_host} keeps its blobs, answered {status}")
        if status == httpx.codes.FORBIDDEN:
            raise Refused("auth", f"{host} denies access to {ref.repository} (403): {how_to_log_in(ref)}")
        if status == httpx.codes.NOT_FOUND:
            raise Refused("not_found", _missing(ref, path))
        if status == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise Refused(
                "digest", f"{host} has fewer bytes of {path.rpartition('/')[2]} than the manifest says"
            )
        raise Refused("invalid", f"{host} answered {status}: is it a registry?")


async def _pieces(response: httpx.Response, blob: Descriptor, offset: int) -> AsyncGenerator[bytes, None]:
    """The body from *offset* on: of a server that heeds no ranges, what is there already is skipped."""
    skip = offset - _first_byte(response, blob)
    if skip < 0 or response.headers.get("content-encoding", "identity") != "identity":
        raise Refused(
            "invalid", f"{response.url.host} sent another part of {blob.digest} than it was asked for"
        )
    left = blob.size - offset
    async for piece in response.aiter_raw():
        if skip >= len(piece):
            skip -= len(piece)
            continue
        wanted = piece[skip:] if skip else piece
        skip = 0
        left -= len(wanted)
        if left < 0:
            raise Refused(
                "digest", f"{response.url.host} sent more bytes of {blob.digest} than the manifest says"
            )
        yield wanted


def _first_byte(response: httpx.Response, blob: Descriptor) -> int:
    """Where the body begins, by status and Content-Range; `Refused` when the blob is said to have another size."""
    if response.status_code == httpx.codes.OK:
        length = response.headers.get("content-length", "")
        if length.isdecimal() and int(length) != blob.size:
            raise Refused(
                "digest",
                f"{response.url.host} has {length} bytes of {blob.digest}, the manifest says {blob.size}",
            )
        return 0
    unit, _, rest = response.headers.get("content-range", "").partition(" ")
    start = rest.partition("-")[0].strip()
    if unit.lower() != "bytes" or not start.isdecimal() or len(start) > len(str(blob.size)):
        raise Refused("invalid", f"{response.url.host} sent a part of {blob.digest} without saying which")
    return int(start)


def _missing(ref: Reference, path: str) -> str:
    if path.startswith("manifests/"):
        return f"{ref.pull_host} has no such image: check name and tag"
    return f"{ref.pull_host} names {path.rpartition('/')[2]} in the manifest but does not have it: push the image again"
