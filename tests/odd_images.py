"""Images with what real ones have and tidy ones lack: every shape of layer, user, program and setting that runtimes disagree on.

`IMAGES` by repository name; `push_all` sends them to a registry. Made for running the same image in two places; called by
the scenario that does.
"""

import struct
from collections.abc import Mapping
from functools import cache
from typing import Any

from tests.images import (
    ARCHITECTURE,
    BUSYBOX,
    OCI,
    Entry,
    Made,
    OciImage,
    busybox_layer,
    descriptor,
    digest_of,
    directory,
    dump,
    hard_link,
    link,
    make_layer,
    program,
    push,
    push_index,
    push_made,
)

APP = 1000
STAFF = 1001
PASSWD = b"""root:x:0:0:root:/root:/bin/sh
app:x:1000:1001:An App:/home/app:/bin/sh
loner:x:1002:1002::/nowhere:/bin/sh
777:x:1777:1778::/digits:/bin/sh
nobody:x:65534:65534:nobody:/:/bin/false
"""
GROUP = b"""root:x:0:
staff:x:1001:
video:x:44:app,other
audio:x:29:app
nogroup:x:65534:
"""
SAY = '#!/bin/sh\ni=0; for a in "$0" "$@"; do echo "arg $i: $a"; i=$((i+1)); done\n'
CAN_BIND = bytes.fromhex("0100000200040000000000000000000000000000").decode()
"""security.capability of a file: CAP_NET_BIND_SERVICE, permitted and effective (capability.h, revision 2)."""
CRASH = {"amd64": "0f0b", "arm64": "00000000"}
"""One invalid instruction: as PID 1 it dies of SIGILL, which nobody in its container could send it."""
EXIT_WITH_EUID = {"amd64": "b86b0000000f0589c7b83c0000000f05", "arm64": "e81580d2010000d4a80b80d2010000d4"}
"""geteuid(2), exit(2); of its answer the lowest eight bits."""
LONG = "l" * 120
DEEP = "/".join(letter * 90 for letter in "abcd")


@cache
def base_layer() -> bytes:
    """Accounts, and programs of every kind, good and bad."""
    return make_layer({
        "etc/passwd": PASSWD,
        "etc/group": GROUP,
        "home/app": Entry(directory=True, mode=0o750, uid=APP, gid=STAFF),
        "bin/say": program(SAY),
        "opt/bin/hidden": program(SAY),
        "bin/plain-file": b"#!/bin/sh\necho never\n",
        "bin/no-interpreter": program("#!/no/such/shell\n"),
        "bin/garbage": program(b"\x7fELF but not really"),
        "bin/crash": program(elf(CRASH)),
        "bin/of-root": Entry(elf(EXIT_WITH_EUID), 0o4755),
        "bin/mine-alone": Entry(SAY.encode(), 0o700, uid=APP, gid=STAFF),
        "real/inner": directory(),
        "via": link("real"),
        "out": link("../../../../../../real"),
        "nowhere": link("/not/there"),
    })  # fmt: skip


def elf(code: Mapping[str, str]) -> bytes:
    """A static program of one segment: its instructions in hexadecimal, by architecture."""
    machine, instructions = {"amd64": 62, "arm64": 183}[ARCHITECTURE], bytes.fromhex(code[ARCHITECTURE])
    base, header = 0x400000, 64 + 56
    ident, size = b"\x7fELF\2\1\1", header + len(instructions)
    top = struct.pack("<16sHHIQQQIHHHHHH", ident, 2, machine, 1, base + header, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    return top + struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 0x1000) + instructions


@cache
def odd_layers() -> tuple[bytes, ...]:
    """Four layers, each undoing some of those below it."""
    bottom: dict[str, bytes | Entry] = {
        "odd/gone": b"gone",
        "odd/back": b"old",
        "odd/dir/a": b"a",
        "odd/dir/b": b"b",
        "odd/gone-dir/deep/file": b"x",
        "odd/opaque": Entry(directory=True, mode=0o2775, uid=APP, gid=STAFF),
        "odd/opaque/old": b"old",
        "odd/opaque/sub/older": b"older",
        "odd/file-to-dir": b"a file",
        "odd/dir-to-file/inner": b"inner",
        "odd/dir-to-link/inner": b"inner",
        "odd/link-to-file": link("dir"),
        "odd/link-to-dir": link("dir"),
        "odd/real": directory(),
        "odd/through": link("real"),
        "odd/through-absolute": link("/odd/real"),
        "odd/hard-a": Entry(b"hard", 0o640, uid=APP, gid=STAFF),
        "odd/hard-b": hard_link("odd/hard-a"),
        "odd/setuid": Entry(SAY.encode(), 0o4755, uid=APP, gid=STAFF),
        "odd/setgid": Entry(SAY.encode(), 0o2755, uid=0, gid=44),
        "odd/sticky": Entry(directory=True, mode=0o1777),
        "odd/changed": Entry(b"same", 0o644),
        "odd/old": Entry(b"old", mtime=1_000_000_000),
        "odd/huge-id": Entry(b"", uid=2_000_000, gid=3_000_000),
        "odd/capable": Entry(SAY.encode(), 0o755, xattrs={"security.capability": CAN_BIND}),
        "odd/noted": Entry(b"", xattrs={"user.mill": "a note"}),
        "odd/dangling": link("/not/there"),
    }
    above: dict[str, bytes | Entry] = {
        "odd/.wh.gone": b"",
        "odd/.wh.back": b"",
        "odd/dir/.wh.a": b"",
        "odd/.wh.gone-dir": b"",
        "odd/opaque/.wh..wh..opq": b"",
        "odd/opaque/new": b"new",
        "odd/file-to-dir": directory(0o700),
        "odd/file-to-dir/inner": b"inner",
        "odd/dir-to-file": b"a file",
        "odd/dir-to-link": link("real"),
        "odd/link-to-file": b"a file",
        "odd/link-to-dir": directory(),
        "odd/link-to-dir/own": b"own",
        "odd/through/relative": b"through",
        "odd/through-absolute/absolute": b"through",
        "odd/hard-a": Entry(b"harder", 0o640, uid=APP, gid=STAFF),
        "odd/hard-c": hard_link("odd/hard-a"),
        "odd/changed": Entry(b"same", 0o600, uid=APP),
    }
    names: dict[str, bytes | Entry] = {
        "odd/back": b"new",
        f"odd/{LONG}": b"long",
        f"odd/{DEEP}/file": b"deep",
        f"odd/{LONG}-link": link(f"/odd/{DEEP}/file"),
        "odd/a space and ünïcode": b"name",
        "./odd/dot-slash": b"dot",
        "odd/implied/parent/file": b"implied",
        "odd/.wh.not-there": b"",
        "odd/twice": b"first",
    }  # fmt: skip
    again: dict[str, bytes | Entry] = {
        "odd/twice": b"second",
        "odd/dir": Entry(directory=True, mode=0o711, uid=APP, gid=STAFF),
    }
    return tuple(make_layer(members) for members in (bottom, above, names, again))


def odd(compression: str = "none", **more: Any) -> OciImage:
    return OciImage([busybox_layer(), *odd_layers()], {"Cmd": ["sh"]}, compression, **more)


def hard_link_below() -> OciImage:
    """A layer with another name of a file that only a layer below it has."""
    below, above = make_layer({"odd/file": b"x"}), make_layer({"odd/other": hard_link("odd/file")})
    return OciImage([busybox_layer(), below, above], {"Cmd": ["sh"]})


def image(**config: Any) -> OciImage:
    """Busybox with `base_layer`, and nothing in its config but *config*."""
    return OciImage([busybox_layer(), base_layer()], config)


def volumes() -> OciImage:
    """A volume with content and an owner, one that no layer has, and two whose names lead through symlinks."""
    layer = make_layer({
        "data": Entry(directory=True, mode=0o750, uid=APP, gid=STAFF),
        "data/seed": Entry(b"content\n", 0o640, uid=APP, gid=STAFF),
        "escape": link("/../../../../../etc"),
    })  # fmt: skip
    named: dict[str, Any] = {"/data": {}, "/fresh/deep": {}, "/via/inner": {}, "/escape": {}}
    return OciImage([busybox_layer(), base_layer(), layer], {"Volumes": named, "Cmd": ["sh"]})


def lone_binary() -> OciImage:
    """One static program and nothing else at all: no shell, no /etc, no /tmp, no folder to mount on."""
    return OciImage(
        [make_layer({"busybox-only": program(BUSYBOX.read_bytes())})],
        {"Entrypoint": ["/busybox-only"], "Cmd": ["pwd"]},
    )


IMAGES: Mapping[str, OciImage] = {
    "plain": image(Cmd=["sh"], Labels={"a": "label", "mill.node": "not ours"}),
    "entry-exec": image(Entrypoint=["/bin/say", "e 1"], Cmd=["c1", "c 2", ""]),
    "entry-shell": image(Entrypoint=["/bin/sh", "-c", "say shell $0 $*"], Cmd=["c1", "c2"]),
    "entry-only": image(Entrypoint=["say", "alone"]),
    "cmd-exec": image(Cmd=["say", "c1"]),
    "cmd-shell": image(Cmd=["/bin/sh", "-c", "echo out; echo err >&2; exit 4"]),
    "nothing": image(),
    "empty-entry": image(Entrypoint=[""], Cmd=["say", "c1"]),
    "user": image(Cmd=["sh"], User="app"),
    "user-missing": image(Cmd=["sh"], User="nosuch"),
    "workdir-missing": image(Cmd=["sh"], User="app", WorkingDir="/made/for it"),
    "workdir-relative": image(Cmd=["sh"], WorkingDir="real/inner"),
    "workdir-link": image(Cmd=["sh"], WorkingDir="/via/inner"),
    "workdir-link-out": image(Cmd=["sh"], WorkingDir="/out/inner/new"),
    "workdir-untidy": image(Cmd=["sh"], WorkingDir="/real//inner/../inner/"),
    "workdir-file": image(Cmd=["sh"], WorkingDir="/etc/passwd"),
    "env": image(
        Cmd=["sh"],
        Env=["EMPTY=", "TWICE=one", "TWICE=two", "SPACE=a  b", "EQ=a=b=c", "QUOTE=\"q'", "UNI=ü", "bare", "lower=x"],
    ),
    "env-path": image(Entrypoint=["hidden"], Env=["PATH=/opt/bin:/bin", "HOME=/from/image", "HOSTNAME=named"]),
    "env-path-empty": image(Entrypoint=["say"], Env=["PATH="]),
    "layers": odd(),
    "layers-gzip": odd("gzip"),
    "layers-zstd": odd("zstd"),
    "layers-docker": odd("gzip", docker_types=True),
    "layers-untyped": odd("gzip", media_type_in_manifest=False),
    "layers-hard-link-below": hard_link_below(),
    "volumes": volumes(),
    "lone-binary": lone_binary(),
    "stop-usr1": image(Cmd=["sh"], StopSignal="SIGUSR1"),
    "stop-number": image(Cmd=["sh"], StopSignal="12"),
    "stop-short": image(Cmd=["sh"], StopSignal="quit"),
    "stop-realtime": image(Cmd=["sh"], StopSignal="SIGRTMIN+3"),
}  # fmt: skip


def attestation(of: OciImage) -> Made:
    """What buildkit lists beside an image: a manifest of no platform, whose one layer is a statement about *of*."""
    config, statement = (
        dump({"architecture": "unknown", "os": "unknown"}),
        dump({"subject": of.made().digest}),
    )
    manifest = dump({
        "schemaVersion": 2,
        "mediaType": OCI + "manifest.v1+json",
        "config": descriptor(config, OCI + "config.v1+json"),
        "layers": [descriptor(statement, "application/vnd.in-toto+json")],
    })  # fmt: skip
    blobs = {digest_of(blob): blob for blob in (config, statement)}
    return Made(manifest, OCI + "manifest.v1+json", blobs, "unknown")


async def push_all(host: str) -> None:
    """`IMAGES`, and ``index``: two platforms with an attestation each, as buildkit pushes them."""
    for name, made in IMAGES.items():
        await push(made, host, name, "1")
    other = "arm64" if ARCHITECTURE == "amd64" else "amd64"
    images = [
        OciImage(
            [busybox_layer()], {"Cmd": ["sh", "-c", f"echo platform: {name}"]}, architecture=architecture
        )
        for name, architecture in (("another's", other), ("ours", ARCHITECTURE))
    ]
    notes = []
    for image in images:
        note = attestation(image)
        await push_made(note, host, "index", note.digest)
        notes.append({
            **note.descriptor,
            "annotations": {
                "vnd.docker.reference.type": "attestation-manifest",
                "vnd.docker.reference.digest": image.made().digest,
            },
            "platform": {"os": "unknown", "architecture": "unknown"},
        })  # fmt: skip
    await push_index(images, host, "index", "1", extra=notes)
