"""What a registry can do to a pull, as a table: each row is one mood, and what must become of an image pulled from it.

A mood answers one request, knowing the image that it should serve, and how many times the same was asked before. Called by
the scenarios of pulling, which serve every row as a repository of its own.
"""

import base64
import json
import time
from collections.abc import Callable, Iterator, Mapping
from email.utils import formatdate
from typing import Any

import attrs

from tests.images import (
    ARCHITECTURE,
    Made,
    OciImage,
    busybox_image,
    digest_of,
    dump,
    large_layer,
    make_index,
)
from tests.scenarios.bad_registry import STALL_AT_MOST_S, Answer, Asked

FOREIGN = ("s390x", "riscv64")
PAGE = b"<!DOCTYPE html><html><body>Please log in to the hotel's network</body></html>"
HTML = {"Content-Type": "text/html; charset=utf-8"}
GIANT_BYTES = 5 * 2**20
SIGNATURE = "s1gned-by-the-registry"
"""What lets one read of a blob store: as secret as a password."""


@attrs.frozen
class Shop:
    """One image and an honest sale of it. `store` is the host of a blob store elsewhere."""

    name: str
    made: Made
    layer: str
    store: str = ""

    def honest(self, asked: Asked) -> Answer:
        last = asked.path.partition("?")[0].rpartition("/")[2]
        if "/manifests/" in asked.path:
            return Answer(200, self.made.manifest, {"Content-Type": self.made.manifest_type})
        blob, first = self.made.blobs[last], first_byte(asked)
        if first:
            headers = {"Content-Range": f"bytes {first}-{len(blob) - 1}/{len(blob)}"}
            return Answer(206, blob[first:], headers)
        return Answer(200, blob)

    def cut(self, asked: Asked, size: int) -> Answer:
        """The beginning of an honest answer, and then the end of the connection."""
        whole = self.honest(asked)
        assert isinstance(whole.body, bytes)
        return attrs.evolve(whole, body=[whole.body[:size]], length=len(whole.body))


def first_byte(asked: Asked) -> int:
    return int(asked.headers.get("range", "bytes=0-").removeprefix("bytes=").partition("-")[0])


def open_shop(name: str, store: str = "", *, size_bytes: int = 2**20) -> Shop:
    """With a layer of its own upon busybox'; its tasks end at once, and well."""
    busybox = busybox_image(Cmd=["true"])
    image = OciImage([*busybox.layers, large_layer(size_bytes, name.encode())], busybox.config)
    return Shop(name, image.made(), digest_of(image.layers[-1]), store)


Mood = Callable[[Shop, Asked, int], Answer]


def honest(shop: Shop, asked: Asked, _: int) -> Answer:
    return shop.honest(asked)


def on_layer(bad: Mood) -> Mood:
    """Only the large layer is *bad*."""

    def mood(shop: Shop, asked: Asked, before: int) -> Answer:
        return bad(shop, asked, before) if shop.layer in asked.path else shop.honest(asked)

    return mood


def on_manifest(bad: Mood) -> Mood:
    def mood(shop: Shop, asked: Asked, before: int) -> Answer:
        return bad(shop, asked, before) if "/manifests/" in asked.path else shop.honest(asked)

    return mood


def always(status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Mood:
    return lambda _shop, _asked, _before: Answer(status, body, headers or {})


def first(*answers: Callable[[], Answer]) -> Mood:
    """These at first, then honest ones."""

    def mood(shop: Shop, asked: Asked, before: int) -> Answer:
        return answers[before]() if before < len(answers) else shop.honest(asked)

    return mood


def failing(status: int, **headers: str) -> Callable[[], Answer]:
    return lambda: Answer(status, b"", {name.replace("_", "-"): value for name, value in headers.items()})


def silence() -> Iterator[bytes]:
    time.sleep(STALL_AT_MOST_S)
    yield b""


def stalled(shop: Shop, asked: Asked, before: int) -> Answer:
    """Half of it, and then neither a byte nor an end; the next time all is well."""
    whole = shop.honest(asked)
    assert isinstance(whole.body, bytes)
    if before:
        return whole

    def pieces(body: bytes = whole.body) -> Iterator[bytes]:
        yield body[: len(body) // 2]
        yield from silence()

    return attrs.evolve(whole, body=pieces(), length=len(whole.body))


def lying(more: int) -> Mood:
    """Content-Length and what comes are both *more* than they should be."""

    def mood(shop: Shop, _asked: Asked, _before: int) -> Answer:
        blob = shop.made.blobs[shop.layer]
        return Answer(200, (blob + bytes(max(more, 0)))[: len(blob) + more])

    return mood


def cut_then(later: Mood) -> Mood:
    def mood(shop: Shop, asked: Asked, before: int) -> Answer:
        return later(shop, asked, before) if before else shop.cut(asked, 500_000)

    return mood


def whole_again(shop: Shop, _asked: Asked, _before: int) -> Answer:
    return Answer(200, shop.made.blobs[shop.layer])


def elsewhere_in_it(shop: Shop, asked: Asked, _before: int) -> Answer:
    blob, start = shop.made.blobs[shop.layer], first_byte(asked) + 7
    return Answer(206, blob[start:], {"Content-Range": f"bytes {start}-{len(blob) - 1}/{len(blob)}"})


def garbled(shop: Shop, asked: Asked, _before: int) -> Answer:
    body = shop.honest(asked).body
    assert isinstance(body, bytes)
    return Answer(200, bytes(len(body)))


def garbled_config(shop: Shop, asked: Asked, before: int) -> Answer:
    config = json.loads(shop.made.manifest)["config"]["digest"]
    return garbled(shop, asked, before) if config in asked.path else shop.honest(asked)


def to_the_store(folder: str) -> Mood:
    """As registries in clouds do it: a signed address of a blob store, which wants no login."""

    def mood(shop: Shop, asked: Asked, _before: int) -> Answer:
        if "/blobs/" not in asked.path:
            return shop.honest(asked)
        digest = asked.path.rpartition("/")[2]
        location = f"http://{shop.store}/{folder}/{shop.name}/{digest}?signature={SIGNATURE}"
        return Answer(307, b"", {"Location": location, "Set-Cookie": "session=c00kie; Path=/"})

    return mood


def foreign_index(_shop: Shop, _asked: Asked, _before: int) -> Answer:
    made = [OciImage([b"x"], architecture=architecture).made() for architecture in FOREIGN]
    index = make_index([m.platform_descriptor for m in made])
    return Answer(200, index, {"Content-Type": "application/vnd.oci.image.index.v1+json"})


def foreign(shop: Shop, asked: Asked, _before: int) -> Answer:
    made = OciImage([shop.made.blobs[shop.layer]], architecture=FOREIGN[0]).made()
    return attrs.evolve(shop, made=made).honest(asked)


def around(_shop: Shop, asked: Asked, _before: int) -> Answer:
    return Answer(302, b"", {"Location": asked.path})


@attrs.frozen
class Row:
    """`detail` None: the image comes and its task ends well. `login` is how the registry lets in: ``basic`` or ``token``."""

    mood: Mood
    detail: str | None = None
    told: str = ""
    fields: Mapping[str, Any] = attrs.field(factory=dict)
    login: str = "basic"
    tokens: Callable[[], Answer] | None = None
    reference: Callable[[Shop], str] = lambda _: ":1"


TOKEN = "t0ken-of-the-service"
HASTY = {"pull_timeout": 2}
WRONG = "sha256:" + "0" * 64
GIANT = b'{"schemaVersion": 2, "x": "' + b"x" * GIANT_BYTES + b'"}'
TOO_MANY = "allows no more requests for now"


def by_digest(shop: Shop) -> str:
    return f"@{shop.made.digest}"


def by_both(shop: Shop) -> str:
    return f":1@{shop.made.digest}"


ROWS: dict[str, Row] = {
    "honest": Row(honest),
    "by-digest": Row(honest, reference=by_digest),
    "by-tag-and-digest": Row(honest, reference=by_both),
    "token": Row(honest, login="token"),
    # -- who is let in
    "wrong-password": Row(honest, "auth", "refused the name and password", login="never-basic"),
    "never-lets-in": Row(honest, "auth", "does not let Mill read", login="never-token"),
    "denied": Row(always(403), "auth", "denies access"),
    "token-refused": Row(honest, "auth", "refused the credentials (401)", login="token", tokens=failing(401)),
    "token-web-page": Row(honest, "auth", "sent no token", login="token", tokens=lambda: Answer(200, PAGE, HTML)),
    "token-no-header": Row(
        honest, "auth", "sent no token", login="token",
        tokens=lambda: Answer(200, json.dumps({"token": f"{TOKEN} "}).encode()),
    ),
    "token-broken": Row(honest, "network", "token service", login="token", tokens=failing(500)),
    "token-slow": Row(honest, "timeout", login="token", tokens=lambda: Answer(200, silence(), length=9), fields=HASTY),
    # -- what passes, and what does not
    "too-many-for-a-second": Row(first(failing(429, Retry_After="1"))),
    "too-many-until-a-date": Row(
        first(lambda: Answer(429, b"", {"Retry-After": formatdate(time.time() + 1, usegmt=True)}))
    ),
    "too-many": Row(always(429, b"", {"Retry-After": "0"}), "network", TOO_MANY),
    "too-many-for-an-hour": Row(always(429, b"", {"Retry-After": "3600"}), "timeout", fields=HASTY),
    "broken-for-a-while": Row(first(failing(500), failing(502), failing(503))),
    "broken": Row(always(500, PAGE, HTML), "network", "answered 500, 5 times in a row"),
    "redirects-without-end": Row(on_layer(around), "network", "redirects without end"),
    # -- bodies
    "cut-once": Row(on_layer(cut_then(honest))),
    "cut-always": Row(on_layer(lambda shop, asked, _: shop.cut(asked, 1000)), "network", "5 times in a row"),
    "cut-manifest": Row(on_manifest(lambda shop, asked, _: shop.cut(asked, 10)), "network", "5 times in a row"),
    "too-long": Row(on_layer(lying(10)), "digest", "the manifest says 1"),
    "too-short": Row(on_layer(lying(-10)), "digest", "the manifest says 1"),
    "ranges-ignored": Row(on_layer(cut_then(whole_again))),
    "wrong-range": Row(on_layer(cut_then(elsewhere_in_it)), "invalid", "another part"),
    "garbled-layer": Row(on_layer(garbled), "digest", "it is damaged"),
    "garbled-config": Row(garbled_config, "digest", "does not match its digest"),
    "no-such-layer": Row(on_layer(always(404)), "not_found", "does not have it"),
    # -- manifests
    "other-manifest": Row(
        on_manifest(always(200, dump({"schemaVersion": 2}))), "digest", "does not match its digest", reference=by_digest
    ),
    "wrong-header": Row(
        on_manifest(lambda shop, asked, _: attrs.evolve(shop.honest(asked), headers={"Docker-Content-Digest": WRONG})),
        "digest", "does not match its digest",
    ),
    "giant-manifest": Row(on_manifest(always(200, GIANT)), "invalid", "sent more than the"),
    "web-page": Row(always(200, PAGE, HTML), "invalid", "web page"),
    "web-page-of-404": Row(always(404, PAGE, HTML), "not_found", "no such image"),
    "foreign-index": Row(
        on_manifest(foreign_index), "invalid", f"no image for linux/{ARCHITECTURE}, only for linux/riscv64, linux/s390x"
    ),
    "foreign-image": Row(foreign, "invalid", f"the image is for linux/s390x, this node is linux/{ARCHITECTURE}"),
    # -- blobs elsewhere
    "blobs-elsewhere": Row(to_the_store("open")),
    "blobs-elsewhere-denied": Row(to_the_store("closed"), "network", "keeps its blobs, answered 403"),
    "blobs-elsewhere-asking": Row(to_the_store("asking"), "network", "keeps its blobs, answered 401"),
    # -- silence
    "stalls-too-long": Row(on_layer(lambda shop, asked, _: stalled(shop, asked, 0)), "timeout", fields=HASTY),
    "stalls-once": Row(on_layer(stalled)),
}  # fmt: skip


def header(username: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()
