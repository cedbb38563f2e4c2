"""What is run both in Mill and by podman: the cases, and how each side's words for one become the same facts.

A case is an image of `tests.odd_images` with fields of a spawn; `podman_flags` says the same to podman. Whatever a script prints
as ``name: value`` is a fact of that name. Called by `test_as_elsewhere`.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from mill.cli import ends
from mill.model import Record

WHO = """
grep -E '^(Uid|Gid|Groups|CapInh|CapPrm|CapEff|CapBnd|CapAmb):' /proc/self/status; echo "home: $HOME"
touch /tmp/made 2>/dev/null; stat -c 'made: %u:%g %a' /tmp/made; echo "cwd: $(pwd)"
"""
WHERE = """
echo "cwd: $(pwd)"; echo "real: $(pwd -P)"; echo "PWD: $PWD"; stat -c 'owner: %u:%g %a' .; touch new 2>/dev/null && echo 'writable: yes'
"""
ENVIRONMENT = "tr '\\0' '\\n' </proc/1/environ | sort | sed 's/=/: /'"
TREE = """
cd /odd
find . -type d -exec stat -c '%n: dir %a %u:%g' {} +
find . -type f -exec stat -c '%n: file %a %u:%g links=%h size=%s mtime=%Y' {} +
find . -type f -exec md5sum {} + | awk '{print "sum of " substr($0, 35) ": " $1}'
find . -type l | while read -r l; do echo "$l: -> $(readlink "$l")"; done
find . ! -type d ! -type f ! -type l -exec stat -c '%n: %F %t %T' {} +
echo more >>hard-a; echo "hard-a: $(cat hard-a)"; echo "hard-b: $(cat hard-b)"; echo "hard-c: $(cat hard-c)"
"""
INSIDE = """
exec 2>/dev/null; echo "umask: $(umask)"
[ "$(hostname)" = "$(cat /etc/hostname)" ] && echo 'hostname is /etc/hostname: yes'
grep -q "[[:space:]]$(hostname)" /etc/hosts && echo 'hosts names it: yes'
grep -qE '^127.0.0.1[[:space:]]+localhost' /etc/hosts && echo 'hosts names localhost: yes'
[ -s /etc/resolv.conf ] && echo 'resolv.conf has something: yes'
for f in hosts hostname resolv.conf; do stat -c "/etc/$f: %F %a %u:%g" /etc/$f; echo >>/etc/$f && echo "/etc/$f writable: yes"; done
find /dev | sort | while read -r d; do stat -c '%n: %F %a %u:%g %t:%T' "$d"; done
for l in fd stdin stdout stderr core ptmx; do echo "/dev/$l ->: $(readlink /dev/$l)"; done
echo "stdin: $(readlink /proc/1/fd/0)"; echo "descriptors: $(ls /proc/self/fd | tr '\\n' ' ')"
sed 's/  */ /g; s/ $//; s/^\\(Max [a-z ]*[a-z]\\) \\([0-9u]\\)/\\1: \\2/; /^Limit/d' /proc/1/limits
grep -E '^(Cap...|NoNewPrivs|Seccomp|Seccomp_filters|SigIgn|SigBlk|Umask):' /proc/1/status
awk '{ print "mount " $2 ": " $3 " " $4 }' /proc/mounts | grep -vE '^mount (/|/etc/(hosts|hostname|resolv.conf)):'
awk '$5 == "/" { print "root propagation: " $7 }' /proc/1/mountinfo
for f in /proc/kcore /proc/keys /proc/timer_list /proc/interrupts /proc/sched_debug /proc/scsi /proc/acpi /sys/firmware; do
  [ -d $f ] && echo "$f: $(ls $f | wc -l) entries" || echo "$f: $(head -c 100 $f 2>/dev/null | wc -c) bytes"
done
for f in sys sysrq-trigger irq bus fs; do [ -w /proc/$f ] && [ -e /proc/$f ] && touch /proc/$f 2>/dev/null && echo "/proc/$f writable: yes"; done
touch /sys/x 2>/dev/null; mkdir /sys/fs/cgroup/x 2>/dev/null && echo 'cgroups writable: yes'
for c in /sys/fs/cgroup/*; do echo "cgroup of $c: $(wc -l <$c/cgroup.procs 2>/dev/null)"; done
echo "processes: $(ls -d /proc/[0-9]* | head -n 1)"; echo "session: $(cut -d' ' -f5-7 /proc/1/stat)"; echo "nice: $(cut -d' ' -f19 /proc/1/stat)"
echo "oom_score_adj: $(cat /proc/1/oom_score_adj)"; echo "networks: $(ls /sys/class/net | tr '\\n' ' ')"
for s in net/ipv4/ip_unprivileged_port_start net/ipv4/ping_group_range kernel/shmmax; do echo "$s: $(cat /proc/sys/$s)"; done
echo "top: $(ls -A / | tr '\\n' ' ')"
for n in cgroup ipc mnt net pid user uts; do echo "namespace: $(readlink /proc/1/ns/$n)"; done
echo "domain: $(cat /proc/sys/kernel/domainname)"; mknod /tmp/n c 1 3 && echo 'mknod: yes'; chown 5:5 /tmp/n && echo 'chown: yes'
unshare -m true 2>/dev/null && echo 'unshare: yes'; mount -t tmpfs x /tmp 2>/dev/null && echo 'mount: yes'
head -c 1 /dev/mem 2>/dev/null && echo 'mem: yes'; date -s 2001-01-01 2>/dev/null >&2 && echo 'set clock: yes'; true
"""
WRITES = """
for d in / /tmp /etc /dev /dev/shm /var/tmp /proc/sys /scratch /data /fresh/deep /real/inner /escape; do
  [ -d $d ] && { touch $d/new 2>/dev/null && echo "$d: writable" || echo "$d: not writable"; }
done
stat -c 'of %n: %u:%g %a' /data /data/seed /fresh/deep /scratch 2>/dev/null; echo "seed: $(cat /data/seed 2>/dev/null)"
awk '$2 ~ /^.(scratch|data|fresh)/ { print "mount " $2 ": " $3 " " $4 }' /proc/mounts; true
"""
SIGNALS = """
for s in 1 2 3 10 12 15 37; do trap "echo got: $s; exit 7" $s; done; echo ready; while :; do sleep 0.02; done
"""
DEAF = "trap '' TERM; echo ready; while :; do sleep 0.02; done"


@attrs.frozen
class Case:
    """`fields` are those of a spawn beside the image. `stop`: it is stopped once it has said ``ready``."""

    name: str
    image: str
    fields: Mapping[str, Any]
    stop: bool = False


def case(name: str, image: str, script: str = "", **fields: Any) -> Case:
    """One that runs a *script*, or whatever *fields* and the image say."""
    if script:
        fields["args"] = ["sh", "-c", script]
    return Case(name, image, fields, stop=script in {SIGNALS, DEAF})


OVERRIDES: Mapping[str, Mapping[str, Any]] = {
    "": {},
    " +args": {"args": ["say", "a 1"]},
    " +command": {"command": ["/bin/say", "x y"]},
    " +both": {"command": ["say"], "args": ["a1", ""]},
}
TMPFS = [{"type": "tmpfs", "target": "/scratch", "size": "1M"}]

CASES = (
    *(
        case(f"{image}{suffix}", image, **OVERRIDES[suffix])
        for image, suffixes in {
            "entry-exec": OVERRIDES, "entry-shell": OVERRIDES, "entry-only": ("", " +args"), "cmd-exec": OVERRIDES,
            "cmd-shell": ("", " +command"), "nothing": ("", " +args"), "empty-entry": ("", " +args", " +command"),
        }.items()
        for suffix in suffixes
    ),
    case("user of the image", "user", WHO),
    *(
        case(f"user {user}", "user", WHO, user=user)
        for user in (
            "root", "1000", "loner", "app:video", "1000:44", "4242", "4242:4343", "4242:video", "777", ":video", "0:0",
            "nosuch", "app:nogroup-such", "4294967296",
        )
    ),
    case("user missing in the image", "user-missing", WHO),
    *(case(image, image, WHERE) for image in (
        "workdir-missing", "workdir-relative", "workdir-link", "workdir-link-out", "workdir-untidy", "workdir-file",
    )),
    case("workdir there", "workdir-missing", WHERE, workdir="/tmp"),
    case("workdir not there", "plain", WHERE, workdir="/not/there"),
    case("workdir dangling", "plain", WHERE, workdir="/nowhere/below"),
    case("workdir closed to the user", "user", WHERE, workdir="/root"),
    case("env", "env", ENVIRONMENT),
    case("env given", "env", ENVIRONMENT, env={"TWICE": "three", "EMPTY": "full", "SPACE": "", "NEW": "line\nline"}),
    case("env default", "plain", ENVIRONMENT),
    case("env of a user", "user", ENVIRONMENT),
    case("env PATH", "env-path"),
    case("env PATH seen", "env-path", command=["/bin/sh", "-c", ENVIRONMENT]),
    case("env PATH empty", "env-path-empty"),
    *(case(image, image, TREE) for image in ("layers", "layers-gzip", "layers-zstd", "layers-docker", "layers-untyped")),
    case("a hard link to a lower layer", "layers-hard-link-below"),
    case("running on layers", "layers", SIGNALS),
    case("index", "index"),
    case("inside", "plain", INSIDE),
    case("inside, a user", "user", INSIDE),
    case("lone binary", "lone-binary"),
    case("lone binary's files", "lone-binary", args=["find", "/", "-xdev"]),
    case("read-only", "volumes", WRITES, read_only=True),
    case("volumes", "volumes", WRITES),
    case("volumes, a user", "volumes", WRITES, user="app"),
    case("tmpfs", "plain", WRITES, mounts=TMPFS),
    case("tmpfs, read-only", "plain", WRITES, mounts=TMPFS, read_only=True, user="app"),
    case("tmpfs over content", "volumes", WRITES, mounts=[{"type": "tmpfs", "target": "/data"}]),
    case("not found", "plain", args=["no-such-program"]),
    case("path not found", "plain", args=["/bin/no-such-program"]),
    case("not executable", "plain", args=["/bin/plain-file"]),
    case("not executable in PATH", "plain", args=["plain-file"]),
    case("not executable for the user", "plain", args=["/bin/mine-alone"], user="loner"),
    case("executable for the user", "plain", args=["/bin/mine-alone"], user="app"),
    case("a directory", "plain", args=["/bin"]),
    case("no interpreter", "plain", args=["/bin/no-interpreter"]),
    case("garbage", "plain", args=["/bin/garbage"]),
    case("relative", "plain", args=["./say", "x"], workdir="/bin"),
    case("crash", "plain", args=["/bin/crash"]),
    case("setuid", "user", args=["/bin/of-root"]),
    case("exit 255", "plain", "exit 255"),
    case("bytes", "plain", "printf 'half: a\\377b'; printf 'err: \\0z' >&2"),
    *(case(image, image, SIGNALS) for image in ("plain", "stop-usr1", "stop-number", "stop-short", "stop-realtime")),
    case("stop deaf", "plain", DEAF, grace=1),
    case("stop as it was asked", "stop-usr1", SIGNALS, stop_signal="SIGINT"),
)  # fmt: skip


@attrs.frozen
class Outcome:
    """One side's end of a case. `facts` hold ``exit`` and, if it never ran, ``start``: whose fault that was."""

    facts: Mapping[str, str]
    said: str = ""


def outcome(code: int, out: bytes, err: bytes, **more: str) -> Outcome:
    """Of one that ran."""
    facts: dict[str, list[str]] = {"exit": [str(code)], **{name: [value] for name, value in more.items()}}
    for stream, data in (("", out), ("stderr", err)):
        for line in data.decode(errors="backslashreplace").split("\n"):
            name, colon, value = line.partition(":")
            if colon and not stream:
                if name == "namespace":
                    name, value = _namespace(value.strip())
                facts.setdefault(name, []).append(value.strip())
            elif line:
                facts.setdefault(stream or "stdout", []).append(line)
    return Outcome({name: " | ".join(values) for name, values in facts.items()})


def _namespace(link: str) -> tuple[str, str]:
    """Whose it is; its number is another each time."""
    kind = link.partition(":")[0]
    return f"namespace {kind}", "the host's" if link == str(
        Path(f"/proc/self/ns/{kind}").readlink()
    ) else "its own"


def refused(kind: str, code: int, said: str) -> Outcome:
    """Of one that could not be started."""
    return Outcome({"start": kind, "exit": str(code)}, said)


def in_mill(record: Record, out: bytes, err: bytes, **more: str) -> Outcome:
    code = ends.exit_code(record)
    if record.times.started is None:
        return refused(record.detail or str(record.reason), code, record.message or "")
    return outcome(code, out, err, **more)


_PODMAN_SAYS = (
    ("command_not_found", r"executable file .* not found|no such file or directory: OCI runtime attempted to invoke|no command or"),
    ("permission", r"OCI permission denied|permission denied: OCI|is a directory"),
    ("user", r"no matching entries in (passwd|group) file|unable to find (user|group)|no users found|no groups found|user: |uids and gids must be in range"),
)  # fmt: skip


def in_podman(code: int, out: bytes, err: bytes, **more: str) -> Outcome:
    said = next(
        (line for line in err.decode(errors="replace").splitlines() if line.startswith("Error: ")), ""
    )
    if code in {125, 126, 127} and said:
        kind = next((kind for kind, sign in _PODMAN_SAYS if re.search(sign, said)), "runtime")
        return refused(kind, code, said)
    return outcome(code, out, err, **more)


def podman_flags(fields: Mapping[str, Any]) -> list[str]:
    """The fields of a spawn as flags of ``podman run``."""
    flags: list[str] = []
    for name, value in fields.items():
        match name:
            case "command":
                flags += ["--entrypoint", json.dumps(value)]
            case "read_only":
                flags += ["--read-only", "--read-only-tmpfs=false"]
            case "env":
                flags += [f"--env={key}={text}" for key, text in value.items()]
            case "mounts":
                size = [f",tmpfs-size={m['size'].lower()}" if "size" in m else "" for m in value]
                flags += [
                    f"--mount=type=tmpfs,target={m['target']}{s}" for m, s in zip(value, size, strict=True)
                ]
            case "user" | "workdir" | "stop_signal":
                flags.append(f"--{name.replace('_', '-')}={value}")
            case _:
                assert name in {"args", "grace"}, name
    return flags


def extended(pid: int) -> dict[str, str]:
    """Extended attributes as the host sees them within the root of the process *pid*: no small program shows them."""
    root = Path(f"/proc/{pid}/root/odd")
    return {
        f"xattrs of {name}": str(
            {key: os.getxattr(root / name, key).hex() for key in os.listxattr(root / name)}
        )
        for name in ("capable", "noted", "setuid")
    }
