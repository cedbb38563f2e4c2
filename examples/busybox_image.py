"""Write an OCI archive with busybox in it: the smallest image with a shell, made without a registry.

python examples/busybox_image.py OUT.tar [--name docker.io/library/busybox:latest] [--busybox /bin/busybox]

It takes a statically linked busybox (Debian: busybox-static) and needs nothing but the standard library. What it writes
is the OCI image layout (an index, one manifest, one config, one layer) that `mill images load` reads.
"""

import argparse
import gzip
import hashlib
import io
import json
import platform
import subprocess
import tarfile
from pathlib import Path

NAME = "docker.io/library/busybox:latest"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
FOLDERS = {"bin": 0o755, "etc": 0o755, "home": 0o755, "root": 0o700, "tmp": 0o1777, "var": 0o755}
FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
}


def tar_of(entries: list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for info, data in entries:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def entry(name: str, kind: bytes, mode: int, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.linkname = kind, mode, target
    return info


def root_filesystem(busybox: Path) -> bytes:
    """One layer: busybox, a link to it for each of its commands, and a few folders and files that programs expect."""
    commands = subprocess.run(
        [str(busybox), "--list"], check=True, capture_output=True, text=True
    ).stdout.split()
    entries = [(entry(name, tarfile.DIRTYPE, mode), b"") for name, mode in FOLDERS.items()]
    entries.append((entry("bin/busybox", tarfile.REGTYPE, 0o755), busybox.read_bytes()))
    entries += [
        (entry(f"bin/{c}", tarfile.SYMTYPE, 0o777, "busybox"), b"") for c in commands if c != "busybox"
    ]
    entries += [(entry(name, tarfile.REGTYPE, 0o644), text.encode()) for name, text in FILES.items()]
    return tar_of(entries)


class Layout:
    """An OCI image layout in the making: blobs by digest."""

    def __init__(self) -> None:
        self.files: list[tuple[tarfile.TarInfo, bytes]] = []

    def add(self, name: str, data: bytes) -> None:
        self.files.append((entry(name, tarfile.REGTYPE, 0o644), data))

    def blob(self, media_type: str, data: bytes) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        self.add(f"blobs/sha256/{digest}", data)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}


def image_archive(name: str, layer: bytes, architecture: str) -> bytes:
    layout = Layout()
    config = {
        "os": "linux",
        "architecture": architecture,
        "config": {"Cmd": ["sh"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": layout.blob("application/vnd.oci.image.config.v1+json", json.dumps(config).encode()),
        "layers": [layout.blob("application/vnd.oci.image.layer.v1.tar+gzip", gzip.compress(layer, mtime=0))],
    }
    target = layout.blob("application/vnd.oci.image.manifest.v1+json", json.dumps(manifest).encode())
    target["annotations"] = {
        "io.containerd.image.name": name,
        "org.opencontainers.image.ref.name": name.rsplit(":", 1)[-1],
    }
    layout.add("index.json", json.dumps({"schemaVersion": 2, "manifests": [target]}).encode())
    layout.add("oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
    return tar_of(layout.files)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write an OCI archive with busybox in it.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--name", default=NAME)
    parser.add_argument("--busybox", type=Path, default=Path("/bin/busybox"))
    asked = parser.parse_args()
    architecture = ARCHITECTURES[platform.machine()]
    asked.out.write_bytes(image_archive(asked.name, root_filesystem(asked.busybox), architecture))
    print(f"wrote {asked.out}: {asked.name} ({asked.out.stat().st_size // 1024} KiB)")


if __name__ == "__main__":
    main()
