"""A registry client as the tests of pulling use it, impatient, and what becomes of a pull from a server that misbehaves."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from mill.config import RegistryConfig
from mill.containerd import oci
from mill.containerd.authorization import Authorizer
from mill.containerd.credentials import Credentials
from mill.containerd.reference import parse
from mill.containerd.registry import Patience, Registry
from mill.containerd.transport import open_transport
from mill.errors import PullError
from tests import images
from tests.containerd.faulty import Asked, Handler, Reply, Server, serving

QUICK = Patience(tries=3, first_s=0.01, most_s=0.02, retry_after_most_s=0.05)
STALL_S = 0.3
SECRET = "s3cret-pass"
DATA = bytes(range(256)) * 1024
BLOB = oci.Descriptor(oci.OCI_LAYER, oci.digest_of(DATA), len(DATA))
MANIFEST = images.OciImage([images.make_layer({"a": b"1"})]).made()


@attrs.define
class Clock:
    time: float = 1000.0

    def __call__(self) -> float:
        return self.time


@asynccontextmanager
async def client(
    registries: Mapping[str, RegistryConfig] | None = None,
    *,
    clock: Clock | None = None,
    patience: Patience = QUICK,
    docker_config: Path | None = None,
) -> AsyncGenerator[Registry]:
    now = clock or Clock()
    credentials = Credentials(registries or {}, docker_config)
    opened = open_transport(authorities=credentials.hosts.authorities(), stall_s=STALL_S)
    async with opened as transport:
        yield Registry(transport, Authorizer(transport, credentials, now), now, patience)


async def fetch(registry: Registry, host: str, blob: oci.Descriptor = BLOB, offset: int = 0) -> bytes:
    async with aclosing(registry.blob(parse(f"{host}/x/y"), blob, offset)) as pieces:
        return b"".join([piece async for piece in pieces])


async def blob_failure(
    handler: Handler, blob: oci.Descriptor = BLOB, offset: int = 0
) -> tuple[PullError, Server]:
    """What becomes of a blob that such a server has."""
    async with serving(handler) as server, client() as registry:
        with pytest.raises(PullError) as caught:
            await fetch(registry, server.host, blob, offset)
        return caught.value, server


async def manifest_failure(handler: Handler, ref: str = "x/y", **options: Any) -> tuple[PullError, Server]:
    async with serving(handler) as server, client(**options) as registry:
        with pytest.raises(PullError) as caught:
            await registry.manifest(parse(f"{server.host}/{ref}"))
        assert f"{server.host}/x/y" in caught.value.message
        assert "\n" not in caught.value.message
        return caught.value, server


def always(reply: Reply) -> Handler:
    async def handler(_asked: Asked, _stream: trio.SocketStream) -> Reply:
        await trio.lowlevel.checkpoint()
        return reply

    return handler
