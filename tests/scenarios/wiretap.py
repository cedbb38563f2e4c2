"""What passes on a link, as one sees it who sits there: every frame, the streams of TCP put together, and what VXLAN carries taken out.

Opened by the test itself in the namespaces of the hosts. It can send a datagram again, in the name of who sent it first.
"""

import socket
import struct
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Address
from typing import NamedTuple

import attrs

from tests.world import Host

LINK = "up0"
ETH_P_ALL, ETH_P_IP = 3, 0x0800
TCP, UDP = 6, 17
VXLAN_PORTS = {4789, 8472}
_SO_RCVBUFFORCE = 33
_SOL_PACKET, _PACKET_STATISTICS = 263, 6
_BUFFER_BYTES = 64 * 1024**2
_FRAME_BYTES = 128 * 1024
"""Between namespaces a frame may hold what a network card would cut into many."""
_ETHER = 14
_HALF, _WHOLE = 2**31, 2**32

Way = tuple[str, int, str, int]


class Packet(NamedTuple):
    """A datagram, or a segment, with where it stands in its frame."""

    protocol: int
    way: Way
    payload: bytes
    at: int = 0
    sequence: int = 0
    carried: bool = False
    """By VXLAN."""


def packets(frame: bytes, *, carried: bool = False) -> Iterator[Packet]:
    """The one in *frame*, if it is IPv4; and of VXLAN also the one in that."""
    if len(frame) < _ETHER + 20 or int.from_bytes(frame[12:14]) != ETH_P_IP:
        return
    ip = frame[_ETHER:]
    header, total = (ip[0] & 15) * 4, int.from_bytes(ip[2:4]) or len(ip)
    assert not int.from_bytes(ip[6:8]) & 0x3FFF, "a fragment, which nobody here puts together"
    source, target = (str(IPv4Address(ip[at : at + 4])) for at in (12, 16))
    body = ip[header:total]
    if ip[9] not in {TCP, UDP} or len(body) < 8:
        return
    ports = struct.unpack_from("!HH", body)
    way = (source, ports[0], target, ports[1])
    if ip[9] == TCP:
        begin = (body[12] >> 4) * 4
        yield Packet(TCP, way, body[begin:], _ETHER + header, int.from_bytes(body[4:8]), carried)
        return
    yield Packet(UDP, way, body[8:], _ETHER + header, carried=carried)
    if ports[1] in VXLAN_PORTS:
        yield from packets(body[16:], carried=True)


@attrs.define(eq=False)
class Tap:
    """All that one host's link carries, either way."""

    sock: socket.socket
    frames: list[bytes] = attrs.field(factory=list)
    lost: int = 0
    _over: threading.Event = attrs.field(factory=threading.Event)

    def read(self) -> None:
        while not self._over.is_set():
            try:
                self.frames.append(self.sock.recv(_FRAME_BYTES))
            except TimeoutError:
                continue

    def close(self) -> None:
        self._over.set()


def _open() -> Tap:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
    sock.bind((LINK, ETH_P_ALL))
    sock.settimeout(0.1)
    return Tap(sock)


@attrs.frozen
class Wire:
    """What the links of some hosts have carried up to now."""

    taps: list[Tap]

    @property
    def frames(self) -> list[bytes]:
        return [frame for tap in self.taps for frame in list(tap.frames)]

    def packets(self) -> Iterator[Packet]:
        for frame in self.frames:
            yield from packets(frame)

    def lost(self) -> int:
        """Frames that the kernel had no room for, since this was asked last: of them nothing can be said."""
        return sum(
            struct.unpack("II", tap.sock.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))[1]
            for tap in self.taps
        )

    def streams(self) -> dict[Way, bytes]:
        """What each side of each connection said, in its order; two lines where something is missing."""
        segments: dict[Way, dict[tuple[int, int], bytes]] = defaultdict(dict)
        first: dict[Way, int] = {}
        for packet in self.packets():
            if packet.protocol == TCP and packet.payload:
                base = first.setdefault(packet.way, packet.sequence)
                place = (packet.sequence - base + _HALF) % _WHOLE - _HALF
                segments[packet.way][place, len(packet.payload)] = packet.payload
        return {way: _joined(sorted(each.items())) for way, each in segments.items()}

    def holds(self, word: str) -> list[str]:
        """Where *word* can be read: ``frame``, or a connection."""
        wanted = word.encode()
        found = ["frame" for frame in self.frames if wanted in frame]
        return found[:1] + [str(way) for way, said in self.streams().items() if wanted in said]


def _joined(segments: list[tuple[tuple[int, int], bytes]]) -> bytes:
    said, end = bytearray(), None
    for (place, length), payload in segments:
        if end is not None and place > end:
            said += b"\n\n"
        elif end is not None and place + length <= end:
            continue
        said += payload if end is None or place >= end else payload[end - place :]
        end = place + length
    return bytes(said)


@contextmanager
def tapped(*hosts: Host) -> Iterator[Wire]:
    """The links of *hosts*, for the length of the block."""
    with ExitStack() as closing:
        taps = []
        for host in hosts:
            tap = host.do(_open)
            closing.callback(tap.sock.close)
            reader = threading.Thread(target=tap.read, daemon=True)
            reader.start()
            closing.callback(reader.join)
            closing.callback(tap.close)
            taps.append(tap)
        yield Wire(taps)


def send_again(frames: list[bytes]) -> None:
    """On the link of the host that this runs on, to whom they went, with the address of who sent them first."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind((LINK, 0))
        mine = sock.getsockname()[4]
        for frame in frames:
            (datagram,) = packets(frame)
            unchecked = (
                datagram.at + 6
            )  # left for a network card to fill in, which there is none here; 0 is for none
            sock.send(frame[:6] + mine + frame[12:unchecked] + bytes(2) + frame[unchecked + 2 :])


def send_as_oneself(datagrams: list[Packet]) -> None:
    """From the address of the host that this runs on."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for datagram in datagrams:
            sock.sendto(datagram.payload, datagram.way[2:])
