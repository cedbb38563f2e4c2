"""Ports that milld wants and who has them, and whether the kernel takes nftables' rules."""

import errno
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress

import attrs

from mill.daemon.doctor.findings import Finding, ok, problem, warning
from mill.daemon.doctor.host import Host, read
from mill.units import parse_address


@attrs.frozen
class Kind:
    """A transport: the socket's type, its table in /proc/net, and the state of a listener there (include/net/tcp_states.h)."""

    type: int
    table: str
    listens: str


TCP = Kind(socket.SOCK_STREAM, "tcp", "0A")
UDP = Kind(socket.SOCK_DGRAM, "udp", "07")
NETLINK_NETFILTER = 12
GET_GENERATION = (10 << 8) | 16
"""NFNL_SUBSYS_NFTABLES and NFT_MSG_GETGEN (linux/netfilter/nf_tables.h): the cheapest question that only nftables answers."""
NLM_F_REQUEST = 1
NLMSG_ERROR = 2
_HEADER = struct.Struct("=IHHII")
_GENERIC = struct.Struct("=BBH")
_ERROR = struct.Struct("=i")
NFT_ANSWER_S = 2.0
NFT_ADVICE = "modprobe nf_tables; tasks of network host and none do without"


@attrs.frozen
class Port:
    """An address that milld listens on, and the option that moves it."""

    listen: str
    use: str = "the API"
    option: str = "--listen"
    kinds: tuple[Kind, ...] = (TCP,)

    def __str__(self) -> str:
        return f"{self.listen} ({self.use})"


def ports(host: Host) -> Iterator[Finding]:
    wanted = (
        Port(host.config.listen),
        Port(host.config.dns_listen, "DNS", "--dns-listen", (TCP, UDP)),
    )
    for port in wanted:
        why, kind = None, TCP
        for kind in port.kinds:
            why = _refusal(port.listen, kind)
            if why is not None:
                break
        pid = listener_of(host, parse_address(port.listen)[1], kind) if why is not None else None
        yield judge_port(port, why, pid, host.milld_of(host.data_dir), _name_of(host, pid))


def judge_port(port: Port, why: OSError | None, pid: int | None, milld: int | None, name: str) -> Finding:
    """*why* it could not be bound, *pid* who listens there if that can be told, *milld* this data directory's."""
    if why is None:
        return ok("ports", f"{port} is free")
    if why.errno != errno.EADDRINUSE:
        return problem(
            "ports",
            f"cannot listen on {port.listen}: {why.strerror}",
            f"give an address of this host with {port.option}",
        )
    if pid is not None and pid == milld:
        return ok("ports", f"{port} is this milld's, pid {pid}")
    who = f"pid {pid} ({name})" if pid is not None else "a process that cannot be seen from here"
    return problem(
        "ports",
        f"{port} is in use by {who}",
        f"stop what listens there, or choose another with {port.option}",
    )


def _refusal(listen: str, kind: Kind) -> OSError | None:
    """Bound as milld would, but never listening: who comes at this moment is not in its way."""
    address, port = parse_address(listen)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, kind.type) as trial:
        if (
            kind is TCP
        ):  # where it means that an old connection is in nobody's way; with UDP, that two may listen
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((address, port))
        except OSError as error:
            return error
    return None


def listener_of(host: Host, port: int, kind: Kind) -> int | None:
    """A process that listens on *port*, by proc_net(5): the socket's inode, then who has it open."""
    inodes = {
        f"socket:[{words[9]}]"
        for table in (kind.table, f"{kind.table}6")
        for line in read(host.proc / "net" / table).splitlines()[1:]
        if (words := line.split())[3] == kind.listens and int(words[1].rpartition(":")[2], 16) == port
    }
    for pid, _ in host.processes() if inodes else ():
        with suppress(OSError), os.scandir(host.proc / str(pid) / "fd") as descriptors:
            for descriptor in descriptors:
                with suppress(OSError):
                    if os.readlink(descriptor.path) in inodes:  # noqa: PTH115 -- thousands of them, without a Path each
                        return pid
    return None


def _name_of(host: Host, pid: int | None) -> str:
    """What it calls itself, on one line: programs choose that freely."""
    if pid is None:
        return ""
    line = read(host.proc / str(pid) / "cmdline").replace("\0", " ").strip()[:80]
    return "".join(c if c.isprintable() else "?" for c in line)


# -- nftables -------------------------------------------------------------------------------------------------------


def nftables(host: Host) -> Iterator[Finding]:
    yield judge_nftables(_nftables_fault(), host.which("nft"))


def judge_nftables(fault: str, tool: str | None) -> Finding:
    """Mill speaks netlink itself: the tool is for people."""
    if fault:
        return warning("nftables", f"the kernel takes no rules: {fault}", NFT_ADVICE)
    return ok(
        "nftables",
        "the kernel takes rules" + ("" if tool else " (the tool nft is not installed, nor needed)"),
    )


def _nftables_fault() -> str:
    """Asks for the number of the rule set's generation: reading changes nothing."""
    message = _GENERIC.pack(socket.AF_UNSPEC, 0, 0)
    header = _HEADER.pack(_HEADER.size + len(message), GET_GENERATION, NLM_F_REQUEST, 1, 0)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as netlink:
            netlink.settimeout(NFT_ANSWER_S)
            netlink.send(header + message)
            answer = netlink.recv(4096)
    except OSError as error:
        return error.strerror or str(error)
    kind = _HEADER.unpack_from(answer)[1]
    if kind == NLMSG_ERROR and (code := _ERROR.unpack_from(answer, _HEADER.size)[0]):
        return os.strerror(-code)
    return ""
