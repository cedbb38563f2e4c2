"""Images made on the spot: layers out of names and bytes, OCI and Docker archives, and a push over HTTP.

`OciImage` is the one noun: made of layers and config fields, written by `write_oci_archive`, `write_docker_archive` or sent
by `push`. `busybox_image` is the one to run things in. Called by tests and benches.
"""

import gzip
import hashlib
import io
import json
import platform
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import attrs
import httpx
import zstandard

BUSYBOX = Path("/bin/busybox")
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
OCI = "application/vnd.oci.image."
DOCKER = "application/vnd.docker."


@attrs.frozen
class Entry:
    """One member of a layer: a file unless `link` or `directory` says otherwise. `xattrs` as PAX headers carry them."""

    data: bytes = b""
    mode: int = 0o644
    link: str = ""
    hard: bool = False
    directory: bool = False
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    xattrs: Mapping[str, str] = attrs.field(factory=dict)


def link(target: str) -> Entry:
    return Entry(link=target, mode=0o777)


def hard_link(target: str) -> Entry:
    """Another name of *target*, which is named from the root, without the leading slash."""
    return Entry(link=target, hard=True)


def directory(mode: int = 0o755) -> Entry:
    return Entry(directory=True, mode=mode)


def program(data: bytes | str) -> Entry:
    return Entry(data.encode() if isinstance(data, str) else data, 0o755)


def make_layer(members: Mapping[str, bytes | Entry]) -> bytes:
    """An uncompressed tar of *members*; plain bytes are a file of mode 644."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, member in members.items():
            entry = Entry(member) if isinstance(member, bytes) else member
            info = tarfile.TarInfo(name)
            info.mode, info.uid, info.gid, info.mtime = entry.mode, entry.uid, entry.gid, entry.mtime
            info.pax_headers = {f"SCHILY.xattr.{key}": value for key, value in entry.xattrs.items()}
            if entry.directory:
                info.type = tarfile.DIRTYPE
            elif entry.link:
                info.type, info.linkname = tarfile.LNKTYPE if entry.hard else tarfile.SYMTYPE, entry.link
            else:
                info.size = len(entry.data)
            tar.addfile(info, io.BytesIO(entry.data))
    return out.getvalue()


@cache
def busybox_layer() -> bytes:
    """Debian's busybox-static with a link for every applet, and the few files that a root file system needs."""
    listed = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True)
    folders = {
        "bin": 0o755,
        "dev": 0o755,
        "etc": 0o755,
        "proc": 0o555,
        "root": 0o700,
        "sys": 0o555,
        "tmp": 0o1777,
        "var": 0o755,
    }
    members: dict[str, bytes | Entry] = {name: directory(mode) for name, mode in folders.items()}
    members["bin/busybox"] = program(BUSYBOX.read_bytes())
    members |= {f"bin/{applet}": link("busybox") for applet in listed.stdout.split() if applet != "busybox"}
    members["etc/passwd"] = b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
    members["etc/group"] = b"root:x:0:\nnogroup:x:65534:\n"
    return make_layer(members)


def large_layer(size_bytes: int, seed: bytes = b"") -> bytes:
    """A layer of one file that does not compress. Cheap: a random-looking mebibyte, each copy with another beginning."""
    mebibyte = hashlib.shake_256(b"large" + seed).digest(2**20)
    pieces = (i.to_bytes(8, "big") + mebibyte[8:] for i in range(-(-size_bytes // 2**20)))
    return make_layer({"large": b"".join(pieces)[:size_bytes]})


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def compress(data: bytes, compression: str) -> bytes:
    """*compression* is ``none``, ``gzip`` or ``zstd``."""
    if compression == "gzip":
        return gzip.compress(data, 1, mtime=0)
    return zstandard.compress(data, 1) if compression == "zstd" else data


@attrs.frozen
class OciImage:
    """Uncompressed `layers`, bottom first, and `config` fields as OCI writes them (``Entrypoint``, ``Env`` ...)."""

    layers: Sequence[bytes]
    config: Mapping[str, Any] = attrs.field(factory=dict)
    compression: str = "none"
    docker_types: bool = False
    architecture: str = ARCHITECTURE
    media_type_in_manifest: bool = True

    @property
    def config_bytes(self) -> bytes:
        return dump({
            "architecture": self.architecture,
            "os": "linux",
            "config": dict(self.config),
            "rootfs": {"type": "layers", "diff_ids": [digest_of(layer) for layer in self.layers]},
        })  # fmt: skip

    @property
    def layer_type(self) -> str:
        if self.docker_types:
            return DOCKER + "image.rootfs.diff.tar" + (".gzip" if self.compression == "gzip" else "")
        return OCI + "layer.v1.tar" + {"none": "", "gzip": "+gzip", "zstd": "+zstd"}[self.compression]

    @property
    def manifest_type(self) -> str:
        return DOCKER + "distribution.manifest.v2+json" if self.docker_types else OCI + "manifest.v1+json"

    def made(self) -> "Made":
        """The finished bytes: every blob by digest, and the manifest."""
        packed = [compress(layer, self.compression) for layer in self.layers]
        config_type = DOCKER + "container.image.v1+json" if self.docker_types else OCI + "config.v1+json"
        manifest: dict[str, Any] = {
            "schemaVersion": 2,
            "config": descriptor(self.config_bytes, config_type),
            "layers": [descriptor(layer, self.layer_type) for layer in packed],
        }
        if self.media_type_in_manifest:
            manifest["mediaType"] = self.manifest_type
        blobs = {digest_of(blob): blob for blob in (self.config_bytes, *packed)}
        return Made(dump(manifest), self.manifest_type, blobs, self.architecture)


@attrs.frozen
class Made:
    manifest: bytes
    manifest_type: str
    blobs: Mapping[str, bytes]
    architecture: str = ARCHITECTURE

    @property
    def digest(self) -> str:
        return digest_of(self.manifest)

    @property
    def descriptor(self) -> dict[str, Any]:
        return descriptor(self.manifest, self.manifest_type)

    @property
    def platform_descriptor(self) -> dict[str, Any]:
        """As an index lists it."""
        return {**self.descriptor, "platform": {"os": "linux", "architecture": self.architecture}}


def busybox_image(*, compression: str = "none", **config: Any) -> OciImage:
    """Runs ``sh`` unless *config* says otherwise."""
    defaults = {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": ["sh"]}
    return OciImage([busybox_layer()], {**defaults, **config}, compression)


def make_index(entries: Sequence[Mapping[str, Any]], media_type: str = OCI + "index.v1+json") -> bytes:
    return dump({"schemaVersion": 2, "mediaType": media_type, "manifests": list(entries)})


def descriptor(data: bytes, media_type: str) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}


def dump(document: Any) -> bytes:
    return json.dumps(document, sort_keys=True).encode()


# -- archives -------------------------------------------------------------------------------------------------------


def write_oci_archive(path: Path, images: Mapping[str, OciImage], *, compression: str = "none") -> Path:
    """An OCI layout of images by their full names (an empty name: none), the whole tar compressed if wanted."""
    members: dict[str, bytes | Entry] = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}
    entries = []
    for name, image in images.items():
        made = image.made()
        notes = {
            "io.containerd.image.name": name,
            "org.opencontainers.image.ref.name": name.rpartition(":")[2],
        }
        entries.append({**made.descriptor, "annotations": notes if name else {}})
        members |= blob_members({**made.blobs, made.digest: made.manifest})
    members["index.json"] = make_index(entries)
    path.write_bytes(compress(make_layer(members), compression))
    return path


def blob_members(blobs: Mapping[str, bytes]) -> dict[str, bytes | Entry]:
    return {"blobs/" + digest.replace(":", "/"): blob for digest, blob in blobs.items()}


def write_docker_archive(path: Path, images: Mapping[str, OciImage], *, compression: str = "none") -> Path:
    """What ``docker save`` wrote before version 25: layers by folder, ``manifest.json`` last. A layer used twice is a link."""
    members: dict[str, bytes | Entry] = {}
    listing = []
    for name, image in images.items():
        config_name = digest_of(image.config_bytes).removeprefix("sha256:") + ".json"
        members[config_name] = image.config_bytes
        layers = []
        for number, layer in enumerate(image.layers):
            folder = f"{digest_of(image.config_bytes + bytes([number])).removeprefix('sha256:')}"
            first = next((n for n, m in members.items() if m == layer), None)
            members[f"{folder}/layer.tar"] = link(f"../{first}") if first else layer
            layers.append(f"{folder}/layer.tar")
        listing.append({"Config": config_name, "RepoTags": [name] if name else None, "Layers": layers})
    members["manifest.json"] = dump(listing)
    path.write_bytes(compress(make_layer(members), compression))
    return path


# -- registries -----------------------------------------------------------------------------------------------------


async def push(
    image: OciImage, host: str, repository: str, tag: str, *, creds: tuple[str, str] | None = None
) -> Made:
    """Send *image* to a registry that speaks plain HTTP."""
    made = image.made()
    await push_made(made, host, repository, tag, creds=creds)
    return made


async def push_made(
    made: Made, host: str, repository: str, tag: str, *, creds: tuple[str, str] | None = None
) -> None:
    async with httpx.AsyncClient(base_url=f"http://{host}/v2/{repository}/", auth=creds, timeout=60) as http:
        for digest, blob in made.blobs.items():
            if (await http.head(f"blobs/{digest}")).is_success:
                continue
            started = (await http.post("blobs/uploads/")).raise_for_status()
            where = httpx.URL(started.headers["location"]).copy_merge_params({"digest": digest})
            (await http.put(where, content=blob)).raise_for_status()
        await _put_manifest(http, tag, made.manifest, made.manifest_type)


async def push_index(
    images: Sequence[OciImage],
    host: str,
    repository: str,
    tag: str,
    *,
    extra: Sequence[Mapping[str, Any]] = (),
) -> bytes:
    """Several images under one tag, *extra* entries of the index before them; returns the index."""
    entries = list(extra)
    for image in images:
        made = image.made()
        await push_made(made, host, repository, made.digest)
        entries.append(made.platform_descriptor)
    index = make_index(entries)
    async with httpx.AsyncClient(base_url=f"http://{host}/v2/{repository}/", timeout=60) as http:
        await _put_manifest(http, tag, index, OCI + "index.v1+json")
    return index


async def _put_manifest(http: httpx.AsyncClient, tag: str, manifest: bytes, media_type: str) -> None:
    answer = await http.put(f"manifests/{tag}", content=manifest, headers={"Content-Type": media_type})
    answer.raise_for_status()
