# ruff: noqa: TRY004 -- a document of the wrong shape is a bad value, not a programmer's wrong type
"""What an image archive holds, read from the names and small documents in it. Pure; `loading` is the caller.

Two kinds: the OCI image layout (``oci-layout``, ``index.json``, ``blobs/``; also what ``docker save`` writes since version
25) and Docker's older one (``manifest.json``, layers as ``<id>/layer.tar``), for which a manifest is made.
"""

import json
import posixpath
import re
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from mill.containerd import oci, reference
from mill.containerd.oci import Descriptor, ImageConfig, Index, Manifest, Platform

_FULL_NAME = "io.containerd.image.name"
_REF_NAME = "org.opencontainers.image.ref.name"
_BARE_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_LINKS = 10  # symbolic links followed from a Docker archive's layer


@attrs.frozen
class Member:
    """One file of the archive. `document` is its content where that is small and looks like JSON; `link` a link's target.

    `position` is where its content begins in the unpacked tar. `digest` and `compression` are known where the content had
    to be read for them: compressed layers of Docker archives.
    """

    size: int
    position: int = 0
    document: bytes | None = None
    link: str | None = None
    digest: str | None = None
    compression: str = ""


@attrs.frozen
class ArchivedImage:
    """One image: its names (normalised), documents from the target down, config, and layers with the members they lie in."""

    names: tuple[str, ...]
    documents: tuple[tuple[Descriptor, bytes], ...]
    manifest: Manifest
    config: ImageConfig
    config_bytes: bytes
    members: Mapping[str, str]


class NameNeeded(ValueError):
    """An image of the archive has no name, or several cannot share the one that was given."""


def read(members: Mapping[str, Member], platform: Platform, name: str | None) -> list[ArchivedImage]:
    """Every image in the archive. `ValueError` says what is wrong with the archive, `NameNeeded` with *name*."""
    if "index.json" in members and "oci-layout" in members:
        return _read_oci(members, platform, name)
    if "manifest.json" in members:
        return _read_docker(members, platform, name)
    raise ValueError("is neither an OCI nor a Docker image archive")


# -- the OCI layout -------------------------------------------------------------------------------------------------


def _read_oci(members: Mapping[str, Member], platform: Platform, name: str | None) -> list[ArchivedImage]:
    index = oci.parse_manifest(_document(members, "index.json"), oci.OCI_INDEX)
    if not isinstance(index, Index):
        raise ValueError("has an index.json that is no index")
    groups: dict[str, list[Descriptor]] = {}
    for entry in index.manifests:
        groups.setdefault(_name_of(entry, name), []).append(entry)
    if not groups:
        raise ValueError("holds no image")
    if "" in groups and len(groups) > 1:
        del groups[""]  # attachments of the named ones
    if name is not None and len(groups) > 1:
        raise NameNeeded(
            f"the archive holds {len(groups)} images with names of their own: leave the name out"
        )
    return [_oci_image(members, entries, platform, _named(given, name)) for given, entries in groups.items()]


def _name_of(entry: Descriptor, name: str | None) -> str:
    """The name that the archive gives an entry; a mere tag is none."""
    if full := entry.annotations.get(_FULL_NAME):
        return full
    given = entry.annotations.get(_REF_NAME, "")
    return name or "" if _BARE_TAG.fullmatch(given) else given


def _named(given: str, name: str | None) -> tuple[str, ...]:
    if name is None and not given:
        raise NameNeeded("the archive names no image: give the name that it shall have here")
    try:
        return (reference.parse(name if name is not None else given).normalised,)
    except ValueError as error:
        if name is not None:
            raise NameNeeded(str(error)) from error
        raise


def _oci_image(
    members: Mapping[str, Member], entries: Sequence[Descriptor], platform: Platform, names: tuple[str, ...]
) -> ArchivedImage:
    documents: list[tuple[Descriptor, bytes]] = []
    entry = entries[0] if len(entries) == 1 else oci.choose(entries, platform)
    while True:
        body = _document(members, _blob_path(entry.digest))
        if oci.digest_of(body) != entry.digest:
            raise ValueError(f"is damaged: {_blob_path(entry.digest)} does not match its digest")
        parsed = oci.parse_manifest(body, entry.media_type)
        documents.append((Descriptor(parsed.media_type, entry.digest, len(body)), body))
        if isinstance(parsed, Manifest):
            break
        there = [m for m in parsed.manifests if _blob_path(m.digest) in members]
        entry = oci.choose(there, platform)
        if len(documents) > 2:  # noqa: PLR2004 -- an index of indexes is the most that anybody builds
            raise ValueError("has an index that leads to an index again and again")
    config_bytes = _document(members, _blob_path(parsed.config.digest))
    config = oci.parse_config(config_bytes)
    oci.check_runs_on(config, parsed, platform)
    paths = {layer.digest: _blob_path(layer.digest) for layer in parsed.layers}
    for layer in parsed.layers:
        if members.get(paths[layer.digest], Member(-1)).size != layer.size:
            raise ValueError(f"is incomplete: layer {layer.digest} is missing or has another size")
    return ArchivedImage(names, tuple(documents), parsed, config, config_bytes, paths)


def _blob_path(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")


# -- Docker's layout ------------------------------------------------------------------------------------------------


def _read_docker(members: Mapping[str, Member], platform: Platform, name: str | None) -> list[ArchivedImage]:
    try:
        listing = json.loads(_document(members, "manifest.json"))
    except RecursionError:
        listing = None
    if not isinstance(listing, list) or not listing or not all(isinstance(item, dict) for item in listing):
        raise ValueError("has a manifest.json that lists no images")
    if name is not None and len(listing) > 1:
        raise NameNeeded(f"the archive holds {len(listing)} images: leave the name out")
    return [_docker_image(members, item, platform, name) for item in listing]


def _docker_image(
    members: Mapping[str, Member], item: Mapping[str, Any], platform: Platform, name: str | None
) -> ArchivedImage:
    tags, layers, config_name = (
        _texts(item.get("RepoTags") or []),
        _texts(item.get("Layers")),
        item.get("Config"),
    )
    if not isinstance(config_name, str) or layers is None or tags is None:
        raise ValueError("has a manifest.json that lists no images")
    names = _named("", name) if name is not None or not tags else tuple(_named(tag, None)[0] for tag in tags)
    config_bytes = _document(members, _clean(config_name))
    config = oci.parse_config(config_bytes)
    if len(layers) != len(config.diff_ids):
        raise ValueError(f"is damaged: {len(layers)} layers, but the config names {len(config.diff_ids)}")
    paths: dict[str, str] = {}
    blobs: list[Descriptor] = []
    for layer, diff_id in zip(layers, config.diff_ids, strict=True):
        path = _resolved(members, _clean(layer))
        member = members[path]
        digest = member.digest or diff_id
        paths[digest] = path
        blobs.append(
            Descriptor(
                oci.OCI_LAYER + (f"+{member.compression}" if member.compression else ""), digest, member.size
            )
        )
    config_blob = Descriptor(oci.OCI_CONFIG, oci.digest_of(config_bytes), len(config_bytes))
    manifest = Manifest(oci.OCI_MANIFEST, config_blob, tuple(blobs))
    oci.check_runs_on(config, manifest, platform)
    body = oci.manifest_bytes(config_blob, blobs)
    target = Descriptor(oci.OCI_MANIFEST, oci.digest_of(body), len(body))
    return ArchivedImage(names, ((target, body),), manifest, config, config_bytes, paths)


def _resolved(members: Mapping[str, Member], path: str) -> str:
    """The member that *path* leads to: a layer used twice is a link in Docker's archives."""
    for _ in range(_LINKS):
        member = members.get(path)
        if member is None:
            raise ValueError(f"is incomplete: {path[:200]!r} is missing")
        if member.link is None:
            return path
        path = _clean(posixpath.join(posixpath.dirname(path), member.link))
    raise ValueError(f"has links that go round in circles at {path[:200]!r}")


def _document(members: Mapping[str, Member], path: str) -> bytes:
    found = members[_resolved(members, path)].document
    if found is None:
        raise ValueError(f"has a {path[:200]!r} that is no JSON document of a sensible size")
    return found


def _texts(value: object) -> list[str] | None:
    return value if isinstance(value, list) and all(isinstance(item, str) for item in value) else None


def _clean(path: str) -> str:
    """Names in an archive are looked up, never opened: leaving it is merely finding nothing."""
    return posixpath.normpath(path).lstrip("/")
