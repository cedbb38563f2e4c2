"""VOLUME of an image: what keeps each such folder writable, as whoever ran it with Docker expects. Pure.

Docker mounts a nameless volume on each, with the image's content copied into it. Here the task's own layer holds the content
and takes writes already, and goes with the task; so only two kinds need a mount: all of them under a read-only root, each
bound to itself, and those that the image has no folder for, on a folder of the task's, which is its user's (podman does
that; Docker leaves it root's, so that only root can use it). Called by `runtime`.
"""

import posixpath
from collections.abc import Iterable, Mapping

from mill.model import Spec

_RUNTIME_S = ("/proc", "/sys", "/dev")
"""What the runtime mounts; images of systemd name /sys/fs/cgroup, to have the host's there when somebody mounts it."""
ROOT_OF_BUNDLE = "rootfs"
"""Where the container's root is, relative to the bundle, as sources of mounts may be (OCI runtime-spec, "Mounts")."""


def names(volumes: Iterable[str]) -> tuple[str, ...]:
    """The absolute paths that *volumes* of an image's config mean, outer ones first; what can be no folder left out."""
    clean = {posixpath.normpath("/" + name.lstrip("/")) for name in volumes if _is_path(name)}
    return tuple(sorted(name for name in clean if not _is_runtime_s(name)))


def binds(found: Mapping[str, str | None], spec: Spec, folder: str) -> tuple[tuple[str, str], ...]:
    """Source and target of each mount. *found* says where in the image each of `names` leads, None: to nothing.

    *folder* is the task's. A path in the image must be without symlinks: its source is resolved on the host.
    """
    taken = {posixpath.normpath(mount.target) for mount in spec.mounts}
    made = []
    for number, (name, real) in enumerate(sorted(found.items())):
        if name in taken or real in taken or (real is not None and _is_runtime_s(real)):
            continue
        if real is None:
            made.append((f"{folder}/volumes/{number}", name))
        elif spec.read_only:
            made.append((ROOT_OF_BUNDLE + real, real))
    return tuple(made)


def _is_path(name: str) -> bool:
    try:
        return "\0" not in name and bool(name.encode())
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can say
        return False


def _is_runtime_s(path: str) -> bool:
    """The root itself too: nothing can be mounted on it."""
    return path == "/" or any(path == own or path.startswith(own + "/") for own in _RUNTIME_S)
