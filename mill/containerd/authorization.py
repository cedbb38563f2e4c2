"""The ``Authorization`` header for a registry: anonymous first, then what its 401 asks for, tokens kept until they expire.

Speaks the distribution project's token protocol (GET with scope; OAuth 2 POST for identity tokens) and HTTP Basic.
Called by `registry` only. Secrets go to the registry itself or to the token service it names, by TLS or over loopback.
"""

import base64
import json
import re
from collections.abc import Callable
from typing import Any

import attrs
import httpx
import trio

from mill.containerd.challenge import Challenge, best, parse
from mill.containerd.credentials import Credential, Credentials
from mill.containerd.reference import Reference
from mill.containerd.transport import Refused, Transient, Transport, read_bounded, retry_after_s

_TOKEN_LIMIT_BYTES = 2**20
_TOKEN = re.compile(
    r"[!-~]+"
)  # no space (nor has RFC 6750 one): the error of a header that is none repeats it
_LEAST_LIFE_S = 60.0  # what the protocol says a token lives where nothing is said
_MOST_LIFE_S = 30 * 86400.0  # a longer one is no time at all
_LIFE_USED = 0.8  # share of a token's life after which a new one is fetched
_CLIENT_ID = "mill"


@attrs.frozen
class _Held:
    header: str = attrs.field(repr=False)
    expires: float


@attrs.define(eq=False)
class Authorizer:
    """Keeps one header per host and repository. `now` is any clock in seconds."""

    transport: Transport
    credentials: Credentials
    now: Callable[[], float]
    _held: dict[tuple[str, str], _Held] = attrs.field(factory=dict, init=False, repr=False)
    _locks: dict[tuple[str, str], trio.Lock] = attrs.field(factory=dict, init=False, repr=False)

    def held(self, ref: Reference) -> str | None:
        """The header to try first; None: go without."""
        held = self._held.get((ref.pull_host, ref.repository))
        return held.header if held is not None and held.expires > self.now() else None

    async def answer(self, ref: Reference, response: httpx.Response, tried: str | None) -> str:
        """A header for the 401 *response* of the registry itself, after *tried* was refused. `Refused` when there is none."""
        challenge = best(parse(response.headers.get_list("www-authenticate")))
        key = (ref.pull_host, ref.repository)
        async with self._locks.setdefault(
            key, trio.Lock()
        ):  # parallel layers of one image shall fetch one token
            held = self.held(ref)
            if held is not None and held != tried:
                return held
            self._held.pop(key, None)
            credential = await self.credentials.find(ref.pull_host)
            if challenge is None:
                raise Refused("auth", f"{ref.pull_host} wants a login of a kind that Mill does not know")
            if challenge.scheme == "basic":
                fresh = _Held(self._basic(ref, credential, tried), float("inf"))
            else:
                fresh = await self._token(ref, challenge, credential)
            self._held[key] = fresh
            return fresh.header

    def _basic(self, ref: Reference, credential: Credential | None, tried: str | None) -> str:
        if credential is None or not credential.username:
            raise Refused("auth", f"{ref.pull_host} wants a login: {how_to_log_in(ref)}")
        header = _basic(credential)
        if header == tried:
            raise Refused("auth", f"{ref.pull_host} refused the name and password: {how_to_log_in(ref)}")
        return header

    async def _token(self, ref: Reference, challenge: Challenge, credential: Credential | None) -> _Held:
        realm = self._realm(ref, challenge, credential)
        query = {"scope": challenge.params.get("scope") or f"repository:{ref.repository}:pull"}
        if "service" in challenge.params:
            query["service"] = challenge.params["service"]
        form, headers = None, dict[str, str]()
        if credential is not None and credential.identity_token:
            form = {
                "grant_type": "refresh_token",
                "refresh_token": credential.identity_token,
                "client_id": _CLIENT_ID,
                **query,
            }
            url = realm
        else:
            if credential is not None:
                headers["Authorization"] = _basic(credential)
                query["account"] = credential.username
            url = realm.copy_merge_params(query)
        transport = self.transport.trusting(ref.pull_host)
        async with transport.open(str(url), headers, form=form) as response:
            self._check_token_status(ref, response, known=credential is not None)
            body = await read_bounded(response, _TOKEN_LIMIT_BYTES)
        token, life_s = _parse_token(ref, body)
        return _Held(f"Bearer {token}", self.now() + life_s * _LIFE_USED)

    def _realm(self, ref: Reference, challenge: Challenge, credential: Credential | None) -> httpx.URL:
        try:
            realm = httpx.URL(challenge.params["realm"])
        except httpx.InvalidURL:
            raise Refused("auth", f"{ref.pull_host} names a token service that is no URL") from None
        hosts = self.credentials.hosts
        plain = hosts.plain_http(ref.pull_host) or hosts.plain_http(realm.netloc.decode())
        if credential is not None and realm.scheme != "https" and not plain:
            raise Refused(
                "auth",
                f"{ref.pull_host} wants the password sent to {realm.host} without TLS, which Mill does not do",
            )
        return realm

    def _check_token_status(self, ref: Reference, response: httpx.Response, *, known: bool) -> None:
        status, host = response.status_code, response.url.host
        if status == httpx.codes.OK:
            return
        if status == httpx.codes.TOO_MANY_REQUESTS or status >= httpx.codes.INTERNAL_SERVER_ERROR:
            raise Transient(
                "network",
                f"the token service {host} answered {status}",
                after_s=retry_after_s(response, self.now()),
            )
        what = "refused the credentials" if known else "gives no token without a login"
        raise Refused("auth", f"the token service {host} {what} ({status}): {how_to_log_in(ref)}")


def how_to_log_in(ref: Reference) -> str:
    return f"give the username and password for {ref.pull_host} in milld's configuration, or by docker login"


def _basic(credential: Credential) -> str:
    pair = f"{credential.username}:{credential.password}".encode()
    return "Basic " + base64.b64encode(pair).decode()


def _parse_token(ref: Reference, body: bytes) -> tuple[str, float]:
    """The token and its life in seconds."""
    try:
        document: Any = json.loads(body)
        token = document.get("token") or document.get("access_token")
        life = document.get("expires_in")
    except (ValueError, AttributeError):
        token, life = None, None
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise Refused("auth", f"the token service of {ref.pull_host} sent no token")
    known = isinstance(life, int | float) and 0 < life < _MOST_LIFE_S
    return token, max(float(life) if known else _LEAST_LIFE_S, _LEAST_LIFE_S)
