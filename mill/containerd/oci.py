# ruff: noqa: TRY004 -- a document of the wrong shape is a bad value, not a programmer's wrong type
"""The documents of an image: index, manifest and config, as OCI and Docker (schema 2) write them. Pure.

Parses bytes into frozen values, picks the manifest of a platform, computes chain ids. Knows no registry and no store;
`registry`, `pull`, `archive` and `images` call it. Every `ValueError` is one line about the document, not about whose it is.
Sources: OCI image-spec 1.1 (manifest, image-index, config), Docker's image manifest v2 schema 2.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from mill.containerd import reference

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"

INDEX_TYPES = frozenset({OCI_INDEX, DOCKER_INDEX})
MANIFEST_TYPES = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
ACCEPT = f"{OCI_INDEX}, {DOCKER_INDEX}, {OCI_MANIFEST}, {DOCKER_MANIFEST}"

_SCHEMA_1_PREFIX = "application/vnd.docker.distribution.manifest.v1+"
_LAYERS_LIMIT = 500  # layers of one image; Docker stops at 127, overlayfs mounts fit some hundred
_BLOB_LIMIT_BYTES = 2**40  # one blob; beyond a tebibyte the size is a lie

_ARCHITECTURES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "armv7l": "arm",
    "armv6l": "arm",
    "i386": "386",
    "i686": "386",
    "loongarch64": "loong64",
}
_ARM_VARIANTS = {"armv7l": ("v7", "v6", "v5"), "armv6l": ("v6", "v5"), "aarch64": ("v8",)}


@attrs.frozen
class Platform:
    """What a node runs: `architecture` in Go's words; `variants` best first, empty where none matters."""

    architecture: str
    variants: tuple[str, ...] = ()
    os: str = "linux"

    def __str__(self) -> str:
        return "/".join((self.os, self.architecture, *self.variants[:1]))


@attrs.frozen
class Descriptor:
    """A blob by digest, with its size in bytes. `platform` as (os, architecture, variant), only within an index."""

    media_type: str
    digest: str
    size: int
    platform: tuple[str, str, str] | None = None
    annotations: Mapping[str, str] = attrs.field(factory=dict)


@attrs.frozen
class Manifest:
    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]


@attrs.frozen
class Index:
    media_type: str
    manifests: tuple[Descriptor, ...]


@attrs.frozen
class ImageConfig:
    """What an image says about running it (OCI config, section ``config``) and what it is made of (`diff_ids`)."""

    architecture: str
    os: str
    diff_ids: tuple[str, ...]
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    user: str = ""
    workdir: str = ""
    stop_signal: str = ""
    exposed_ports: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    labels: Mapping[str, str] = attrs.field(factory=dict)


def platform_of(machine: str) -> Platform:
    """The platform of a host whose ``platform.machine()`` is *machine*."""
    return Platform(_ARCHITECTURES.get(machine, machine), _ARM_VARIANTS.get(machine, ()))


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def chain_ids(diff_ids: Sequence[str]) -> tuple[str, ...]:
    """The id of every layer's snapshot, bottom first (OCI config, "Layer ChainID")."""
    chain: list[str] = []
    for diff_id in diff_ids:
        chain.append(digest_of(f"{chain[-1]} {diff_id}".encode()) if chain else diff_id)
    return tuple(chain)


def parse_manifest(data: bytes, content_type: str = "") -> Manifest | Index:
    """A manifest or an index; *content_type* decides where the document does not name its own type."""
    document = _object(data, "the manifest")
    media_type = _media_type(document, content_type)
    if media_type in INDEX_TYPES:
        entries = _list(document, "manifests")
        return Index(media_type, tuple(_descriptor(entry, "manifests") for entry in entries))
    if "config" not in document:
        raise ValueError("the manifest names no config: it is no container image")
    layers = _list(document, "layers")
    if len(layers) > _LAYERS_LIMIT:
        raise ValueError(f"the manifest has {len(layers)} layers, {_LAYERS_LIMIT} are the most")
    return Manifest(
        media_type,
        _descriptor(document["config"], "config"),
        tuple(_descriptor(layer, "layers") for layer in layers),
    )


def choose(manifests: Sequence[Descriptor], host: Platform) -> Descriptor:
    """The entry that *host* runs. Entries of unknown platform (attestations) never match; ``ValueError`` says what there is."""
    fitting = [m for m in manifests if _rank(m, host) is not None]
    silent = [m for m in manifests if m.platform is None]
    if not fitting and len(silent) == 1:
        return silent[0]  # its config will tell whether it fits
    if not fitting:
        there = {
            "/".join(part for part in m.platform if part)
            for m in manifests
            if m.platform and m.platform[0] != "unknown"
        }
        raise ValueError(f"there is no image for {host}, only for {', '.join(sorted(there)) or 'nothing'}")
    return min(fitting, key=lambda m: _rank(m, host) or 0)


def parse_config(data: bytes) -> ImageConfig:
    document = _object(data, "the image's config")
    rootfs = document.get("rootfs")
    diff_ids = _strings(rootfs if isinstance(rootfs, dict) else {}, "diff_ids")
    if not diff_ids or not all(reference.is_digest(d) for d in diff_ids):
        raise ValueError("the image's config lists no layers (rootfs.diff_ids): it is no container image")
    config = document.get("config") or {}
    if not isinstance(config, dict):
        raise ValueError("the image's config has a section 'config' that is no object")
    return ImageConfig(
        architecture=_text(document, "architecture"),
        os=_text(document, "os"),
        diff_ids=diff_ids,
        entrypoint=_strings(config, "Entrypoint"),
        cmd=_strings(config, "Cmd"),
        env=_strings(config, "Env"),
        user=_text(config, "User"),
        workdir=_text(config, "WorkingDir"),
        stop_signal=_text(config, "StopSignal"),
        exposed_ports=tuple(sorted(_mapping(config, "ExposedPorts"))),
        volumes=tuple(sorted(_mapping(config, "Volumes"))),
        labels={k: str(v) for k, v in _mapping(config, "Labels").items()},
    )


def check_runs_on(config: ImageConfig, manifest: Manifest, host: Platform) -> None:
    """`ValueError` when the image cannot run on *host* or its layers and diff ids do not pair."""
    if len(manifest.layers) != len(config.diff_ids):
        raise ValueError(f"the manifest has {len(manifest.layers)} layers, the config {len(config.diff_ids)}")
    if (config.os or host.os, config.architecture or host.architecture) != (host.os, host.architecture):
        raise ValueError(f"the image is for {config.os}/{config.architecture}, this node is {host}")


def manifest_bytes(config: Descriptor, layers: Sequence[Descriptor]) -> bytes:
    """An OCI manifest for blobs that came without one (Docker archives). The same input gives the same bytes."""

    def entry(d: Descriptor) -> dict[str, Any]:
        return {"mediaType": d.media_type, "digest": d.digest, "size": d.size}

    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": entry(config),
        "layers": [entry(layer) for layer in layers],
    }
    return json.dumps(document, separators=(",", ":")).encode()


def _media_type(document: Mapping[str, Any], content_type: str) -> str:
    named = document.get("mediaType")
    media_type = named if isinstance(named, str) and named else content_type.partition(";")[0].strip()
    if document.get("schemaVersion") == 1 or media_type.startswith(_SCHEMA_1_PREFIX):
        raise ValueError(
            "the image is of Docker's manifest schema 1, which is obsolete: push it again with a current tool"
        )
    if media_type in INDEX_TYPES | MANIFEST_TYPES:
        return media_type
    if media_type and media_type not in {"application/json", "application/octet-stream", "text/plain"}:
        raise ValueError(f"a manifest of type {media_type[:100]!r} is no container image")
    return OCI_INDEX if "manifests" in document else OCI_MANIFEST


def _rank(entry: Descriptor, host: Platform) -> int | None:
    """How well *entry* fits, 0 best; None: not at all."""
    if entry.platform is None or entry.platform[:2] != (host.os, host.architecture):
        return None
    variant = entry.platform[2]
    if variant in host.variants:
        return host.variants.index(variant)
    if not variant:
        return len(host.variants)
    return None if host.variants else len(host.variants) + 1  # amd64/v2 where the host names no variant: last


def _descriptor(value: object, where: str) -> Descriptor:
    if not isinstance(value, dict):
        raise ValueError(f"an entry of {where!r} is no object")
    digest, size, media_type = value.get("digest"), value.get("size"), value.get("mediaType", "")
    if not isinstance(digest, str) or not reference.is_digest(digest):
        raise ValueError(f"an entry of {where!r} has no sha256 digest")
    if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= _BLOB_LIMIT_BYTES:
        raise ValueError(f"an entry of {where!r} has no valid size")
    if not isinstance(media_type, str):
        raise ValueError(f"an entry of {where!r} has a media type that is no text")
    notes = {k: v for k, v in _mapping(value, "annotations").items() if isinstance(v, str)}
    return Descriptor(media_type, digest, size, _platform(value.get("platform")), notes)


def _platform(value: object) -> tuple[str, str, str] | None:
    if not isinstance(value, dict):
        return None
    return _text(value, "os"), _text(value, "architecture"), _text(value, "variant")


def _object(data: bytes, what: str) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise ValueError(f"{what} is not JSON") from None
    if not isinstance(document, dict):
        raise ValueError(f"{what} is no JSON object")
    return document


def _list(document: Mapping[str, Any], key: str) -> list[Any]:
    value = document.get(key)
    if not isinstance(value, list):
        raise ValueError(f"the manifest has no list {key!r}")
    return value


def _mapping(document: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = document.get(key) or {}
    if not isinstance(value, dict):
        raise ValueError(f"{key!r} is no object")
    return value


def _text(document: Mapping[str, Any], key: str) -> str:
    value = document.get(key) or ""
    if not isinstance(value, str):
        raise ValueError(f"{key!r} is no text")
    return value


def _strings(document: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = document.get(key) or []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"{key!r} is no list of texts")
    return tuple(value)
