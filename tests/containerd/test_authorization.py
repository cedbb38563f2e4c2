"""Who is let in where, what a secret is sent to, and that redirects carry none."""

import base64
import json
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from mill.config import RegistryConfig
from mill.containerd.reference import parse
from mill.containerd.registry import Patience
from mill.containerd.transport import Refused
from mill.errors import PullError
from tests import images
from tests import registry as real
from tests.containerd.clients import (
    DATA,
    MANIFEST,
    SECRET,
    Clock,
    always,
    blob_failure,
    client,
    fetch,
    manifest_failure,
)
from tests.containerd.faulty import (
    Asked,
    Reply,
    Server,
    serving,
)


@pytest.fixture(scope="module")
def private_registry() -> Iterator[real.Registry]:
    with real.running(private=True) as registry:
        yield registry


async def test_a_private_registry_opens_to_the_right_password_only(
    private_registry: real.Registry, tmp_path: Path
) -> None:
    host, creds = private_registry.host, private_registry.creds
    made = await images.push(images.OciImage([b"x" * 1024]), host, "x/y", "latest", creds=creds)
    docker_config = tmp_path / "config.json"
    pair = base64.b64encode(f"{real.USERNAME}:{real.PASSWORD}".encode()).decode()
    docker_config.write_text(json.dumps({"auths": {f"http://{host}/v2/": {"auth": pair}}}))
    configured = {host: RegistryConfig(real.USERNAME, real.PASSWORD)}
    for options in ({"registries": configured}, {"docker_config": docker_config}):
        async with client(**options) as registry:
            assert (await registry.manifest(parse(f"{host}/x/y"))).digest == made.digest
    for registries, why in (
        ({}, "wants a login"),
        ({host: RegistryConfig(real.USERNAME, SECRET)}, "refused the name and password"),
    ):
        async with client(registries) as registry:
            with pytest.raises(PullError, match=why) as caught:
                await registry.manifest(parse(f"{host}/x/y"))
        assert caught.value.detail == "auth"
        assert SECRET not in caught.value.message


# -- logins ---------------------------------------------------------------------------------------------------------


class TokenService:
    """A registry that wants tokens, and under another name the service that gives them."""

    def __init__(self, *, life_s: int = 300, secret: str | None = None) -> None:
        self.given = 0
        self.life_s = life_s
        self.secret = secret
        self.realm = ""

    async def registry(self, asked: Asked, _stream: trio.SocketStream) -> Reply:
        await trio.lowlevel.checkpoint()
        if asked.headers.get("authorization") != f"Bearer token{self.given}":
            challenge = f'Bearer realm="{self.realm}",service="reg",scope="repository:x/y:pull"'
            return Reply(401, headers={"WWW-Authenticate": challenge})
        if "/manifests/" in asked.path:
            return Reply(body=MANIFEST.manifest, headers={"Content-Type": MANIFEST.manifest_type})
        return Reply(body=DATA)

    async def tokens(self, asked: Asked, _stream: trio.SocketStream) -> Reply:
        await trio.lowlevel.checkpoint()
        if self.secret and self.secret not in asked.body.decode() + asked.headers.get("authorization", ""):
            return Reply(401)
        self.given += 1
        return Reply(body=json.dumps({"token": f"token{self.given}", "expires_in": self.life_s}).encode())


@asynccontextmanager
async def token_service(service: TokenService) -> AsyncGenerator[tuple[Server, Server]]:
    async with serving(service.registry) as registry, serving(service.tokens, name="localhost") as tokens:
        service.realm = f"http://{tokens.host}/token"
        yield registry, tokens


async def test_an_anonymous_token_is_fetched_once_and_kept_until_it_expires() -> None:
    clock, service = Clock(), TokenService(life_s=300)
    async with token_service(service) as (server, tokens), client(clock=clock) as registry:
        ref = parse(f"{server.host}/x/y")
        await registry.manifest(ref)
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(fetch, registry, server.host)
        assert tokens.paths() == ["/token?scope=repository%3Ax%2Fy%3Apull&service=reg"]
        clock.time += 299
        await registry.manifest(ref)
        assert len(tokens.asked) == 2


async def test_a_token_that_the_registry_no_longer_takes_is_replaced() -> None:
    service = TokenService()
    async with token_service(service) as (server, tokens), client() as registry:
        await registry.manifest(parse(f"{server.host}/x/y"))
        service.given += 7  # the one that is held is void from now on
        await registry.manifest(parse(f"{server.host}/x/y"))
        assert len(tokens.asked) == 2


@pytest.mark.parametrize(
    "answer",
    [b"", b"[]", b"{}", b'{"token": 5}', b'{"token": "a\\nb"}', b'{"token": "a b"}', b'{"token": "s3cret "}'],
)
async def test_an_answer_without_a_token_is_auth(answer: bytes) -> None:
    async def handler(asked: Asked, _stream: trio.SocketStream) -> Reply:
        await trio.lowlevel.checkpoint()
        if asked.path.startswith("/token"):
            return Reply(body=answer)
        return Reply(
            401, headers={"WWW-Authenticate": f'Bearer realm="http://{asked.headers["host"]}/token"'}
        )

    error, _ = await manifest_failure(handler)
    assert error.detail == "auth"
    assert "sent no token" in error.message
    assert "s3cret" not in error.message


async def test_a_token_service_that_wants_to_be_asked_later_is() -> None:
    service, clock = TokenService(), Clock()
    replies = iter([Reply(status, headers={"Retry-After": "0"}) for status in (429, 503)])

    async def tokens(asked: Asked, stream: trio.SocketStream) -> Reply:
        return next(replies, None) or await service.tokens(asked, stream)

    patience = Patience(first_s=3600, most_s=3600)
    async with (
        serving(service.registry) as server,
        serving(tokens) as second,
        client(clock=clock, patience=patience) as registry,
    ):
        service.realm = f"http://{second.host}/token"
        with trio.fail_after(10):
            await registry.manifest(parse(f"{server.host}/x/y"))
    assert len(second.asked) == 3


async def test_a_token_with_an_absurd_life_is_taken_for_a_minute() -> None:
    clock, service = Clock(), TokenService(life_s=10**400)
    async with token_service(service) as (server, tokens), client(clock=clock) as registry:
        await registry.manifest(parse(f"{server.host}/x/y"))
        clock.time += 61
        await registry.manifest(parse(f"{server.host}/x/y"))
    assert len(tokens.asked) == 2


async def test_parallel_first_requests_share_one_token() -> None:
    async with (
        token_service(TokenService()) as (server, tokens),
        client() as registry,
        trio.open_nursery() as nursery,
    ):
        for _ in range(5):
            nursery.start_soon(fetch, registry, server.host)
    assert len(tokens.asked) == 1


async def test_the_password_goes_to_the_token_service_and_never_to_the_registry() -> None:
    pair = base64.b64encode(f"me:{SECRET}".encode()).decode()
    async with token_service(TokenService(secret=pair)) as (server, tokens):
        async with client({server.host: RegistryConfig("me", SECRET)}) as registry:
            await registry.manifest(parse(f"{server.host}/x/y"))
        assert tokens.asked[0].headers["authorization"] == f"Basic {pair}"
        assert all(pair not in request.headers.get("authorization", "") for request in server.asked)


async def test_an_identity_token_is_traded_for_a_token(tmp_path: Path) -> None:
    async with token_service(TokenService(secret=SECRET)) as (server, tokens):
        config = tmp_path / "config.json"
        config.write_text(json.dumps({"auths": {server.host: {"identitytoken": SECRET}}}))
        async with client(docker_config=config) as registry:
            await registry.manifest(parse(f"{server.host}/x/y"))
        assert tokens.asked[0].method == "POST"
        assert b"grant_type=refresh_token" in tokens.asked[0].body


async def test_refused_credentials_are_told_without_the_secret() -> None:
    async with (
        token_service(TokenService(secret="other")) as (server, _),
        client({server.host: RegistryConfig("me", SECRET)}) as registry,
    ):
        with pytest.raises(PullError, match="refused the credentials") as caught:
            await registry.manifest(parse(f"{server.host}/x/y"))
    assert caught.value.detail == "auth"
    assert SECRET not in caught.value.message


async def test_a_password_is_not_sent_without_tls_to_a_token_service_elsewhere() -> None:
    service = TokenService()
    async with serving(service.registry) as server:
        service.realm = "http://tokens.example.com/token"
        registries = {"registry.example.com": RegistryConfig("me", SECRET)}
        async with client(registries) as registry:
            answer = Reply(401, headers={"WWW-Authenticate": f'Bearer realm="{service.realm}"'})
            async with (
                serving(always(answer)) as other,
                registry.transport.open(f"http://{other.host}/", {}) as response,
            ):
                with pytest.raises(Refused, match="without TLS"):
                    await registry.authorizer.answer(parse("registry.example.com/x/y"), response, None)
    assert server.asked == []


async def test_a_registry_that_never_lets_in_ends_as_auth_after_a_few_requests() -> None:
    async def handler(asked: Asked, _stream: trio.SocketStream) -> Reply:
        await trio.lowlevel.checkpoint()
        if asked.path.startswith("/token"):
            return Reply(body=b'{"token":"never"}')
        return Reply(
            401, headers={"WWW-Authenticate": f'Bearer realm="http://{asked.headers["host"]}/token"'}
        )

    error, server = await manifest_failure(handler)
    assert error.detail == "auth"
    assert len(server.asked) <= 6


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (Reply(401), "login of a kind"),
        (Reply(401, headers={"WWW-Authenticate": "Negotiate"}), "login of a kind"),
        (Reply(401, headers={"WWW-Authenticate": 'Basic realm="x"'}), "wants a login"),
        (Reply(403), "denies access"),
    ],
)
async def test_other_refusals_are_auth_at_once(reply: Reply, why: str) -> None:
    error, server = await manifest_failure(always(reply))
    assert (error.detail, len(server.asked)) == ("auth", 1)
    assert why in error.message


# -- redirects ------------------------------------------------------------------------------------------------------


async def test_a_redirect_to_another_host_carries_no_authorization() -> None:
    async with serving(always(Reply(body=DATA)), name="localhost") as store:

        async def handler(asked: Asked, _stream: trio.SocketStream) -> Reply:
            await trio.lowlevel.checkpoint()
            if "authorization" not in asked.headers:
                return Reply(401, headers={"WWW-Authenticate": 'Basic realm="x"'})
            return Reply(307, headers={"Location": f"http://{store.host}/store?sig=1"})

        async with (
            serving(handler) as server,
            client({server.host: RegistryConfig("me", SECRET)}) as registry,
        ):
            assert await fetch(registry, server.host) == DATA
        assert [("authorization" in asked.headers) for asked in store.asked] == [False]
        assert "authorization" in server.asked[-1].headers


async def test_a_redirect_within_the_registry_keeps_the_authorization() -> None:
    async def handler(asked: Asked, _stream: trio.SocketStream) -> Reply:
        await trio.lowlevel.checkpoint()
        if "authorization" not in asked.headers:
            return Reply(401, headers={"WWW-Authenticate": 'Basic realm="x"'})
        return Reply(302, headers={"Location": "/there"}) if asked.path != "/there" else Reply(body=DATA)

    async with serving(handler) as server, client({server.host: RegistryConfig("me", SECRET)}) as registry:
        assert await fetch(registry, server.host) == DATA


async def test_a_blob_store_that_asks_for_a_login_gets_none() -> None:
    refusal = Reply(401, headers={"WWW-Authenticate": 'Basic realm="give me"'})
    async with serving(always(refusal), name="localhost") as store:
        redirect = always(Reply(307, headers={"Location": f"http://{store.host}/store"}))
        async with (
            serving(redirect) as server,
            client({server.host: RegistryConfig("me", SECRET)}) as registry,
        ):
            with pytest.raises(PullError, match=r"where .* keeps its blobs, answered 401") as caught:
                await fetch(registry, server.host)
        assert caught.value.detail == "network"
        assert not any("authorization" in asked.headers for asked in (*store.asked, *server.asked))


async def test_no_cookie_is_ever_sent_back() -> None:
    """They know no ports: one registry's would go to another on the same host."""
    reply = Reply(body=DATA, headers={"Set-Cookie": "session=s3cret; Path=/"})
    async with serving(always(reply)) as server, client() as registry:
        await fetch(registry, server.host)
        await fetch(registry, server.host)
    assert [("cookie" in asked.headers) for asked in server.asked] == [False, False]


async def test_redirects_without_end_end() -> None:
    error, server = await blob_failure(always(Reply(302, headers={"Location": "/again"})))
    assert error.detail == "network"
    assert len(server.asked) < 10
