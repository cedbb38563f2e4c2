"""Packets survive the wire, what is unknown survives too, and no bytes whatever raise anything but the declared error.

The fuzz takes a second; with ``MILL_LONG=1`` it goes on for five minutes.
"""

import os
import random
import time
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from hypothesis import given
from hypothesis import strategies as st

from mill.cluster import messages, proto, wire
from mill.cluster.messages import Ack, Ask, Body, Claim, Gossip, Mail, Packet, Ping, Rumour, Sync, Told
from mill.cluster.proto import engine_pb2
from mill.cluster.proto import swim_pb2 as pb
from mill.cluster.values import MemberState, NodeId
from mill.containerd.proto import generate

FUZZ_S = 300.0 if os.environ.get("MILL_LONG") else 1.0

ids = st.binary(min_size=16, max_size=16).map(lambda raw: NodeId(raw.hex()))
numbers = st.integers(0, wire.MOST_NUMBER)
texts = st.text(max_size=30)
blobs = st.binary(max_size=messages.MOST_ATTACHMENT_BYTES)
bodies = st.builds(
    Body,
    texts,
    st.text(min_size=1, max_size=30),
    st.integers(1, 65535),
    numbers,
    numbers,
    st.dictionaries(texts, texts, max_size=3),
)
claims = st.builds(
    Claim, ids, numbers, numbers, st.sampled_from(MemberState), st.none() | bodies, st.lists(ids, max_size=3).map(tuple),
    st.integers(0, wire.MOST_AWAY_MS).map(lambda ms: ms / 1000),
)  # fmt: skip
rumours = st.builds(Rumour, ids, numbers, numbers, texts, st.binary(max_size=100))
kinds = st.one_of(
    st.builds(Ping, numbers, ids, blobs, st.booleans()),
    st.builds(Ack, numbers, st.integers(0, 2**64 - 1), blobs),
    st.builds(Ask, numbers, ids),
    st.builds(Told, numbers, ids, st.booleans()),
    st.just(Gossip()),
    st.builds(Sync, st.booleans()),
    st.builds(Mail, st.binary(max_size=100)),
)
packets = st.builds(
    Packet,
    ids,
    numbers,
    numbers,
    kinds,
    st.lists(claims, max_size=3).map(tuple),
    st.lists(rumours, max_size=3).map(tuple),
)

ME = NodeId("0123456789abcdef" * 2)
SAMPLE = Packet(
    ME, 3, 4, Ping(5, ME, b"attached"),
    (Claim(ME, 1, 2, MemberState.SUSPECT, Body("node-1", "10.0.0.1", 4401, 1, 2, {"version": "1"}), (ME,), 0.5),),
    (Rumour(ME, 1, 2, "leader", b"news"),),
)  # fmt: skip


@given(packets)
def test_a_packet_comes_out_as_it_went_in(packet: Packet) -> None:
    assert wire.decode(wire.encode(packet)) == packet


def test_what_a_newer_mill_says_of_a_member_is_passed_on() -> None:
    made = pb.Packet.FromString(wire.encode(SAMPLE))
    known = made.claims[0].body.SerializeToString()
    newer = known + b"\xc2\x3e\x05later" + b"\xf8\x07\x2a"  # field 1000 a text, field 127 a number
    made.claims[0].body.Clear()
    made.claims[0].body.MergeFromString(newer)
    read = wire.decode(made.SerializeToString())
    body = read.claims[0].body
    assert body is not None
    assert b"later" in body.extra
    assert body.meta == {"version": "1"}
    assert wire.decode(wire.encode(read)) == read
    passed_on = pb.Packet.FromString(wire.encode(read)).claims[0].body
    assert b"later" in passed_on.SerializeToString()


def test_a_claim_of_an_unknown_state_is_left_out_and_the_rest_is_read() -> None:
    made = pb.Packet.FromString(wire.encode(SAMPLE))
    made.claims.add().MergeFromString(made.claims[0].SerializeToString() + b"\x20\x63")  # state 99
    assert wire.decode(made.SerializeToString()) == SAMPLE


def broken(change: str) -> bytes:
    made = pb.Packet.FromString(wire.encode(SAMPLE))
    exec(change, {"made": made, "wire": wire, "messages": messages})
    return made.SerializeToString()


@pytest.mark.parametrize(
    "change",
    [
        "made.speaker = b'short'",
        "made.epoch = wire.MOST_NUMBER + 1",
        "made.ClearField('ping')",
        "made.ping.target = bytes(17)",
        "made.ping.number = 2**64 - 1",
        "made.ping.attachment = bytes(messages.MOST_ATTACHMENT_BYTES + 1)",
        "made.claims[0].node = b''",
        "made.claims[0].incarnation = 2**60",
        "made.claims[0].away_ms = 2**60",
        "made.claims[0].accusers.extend([bytes(16)] * wire.MOST_ACCUSERS)",
        "made.claims[0].body.port = 65536",
        "made.claims[0].body.port = 0",
        "made.claims[0].body.host = ''",
        "made.claims[0].body.name = 'x' * messages.MOST_BODY_BYTES",
        "made.claims[0].body.said = 2**60",
        "made.rumours[0].payload = bytes(messages.MOST_RUMOUR_BYTES + 1)",
        "made.rumours[0].key = 'x' * (messages.MOST_KEY_BYTES + 1)",
        "made.rumours[0].origin = bytes(15)",
    ],
)
def test_what_is_out_of_bounds_is_refused(change: str) -> None:
    with pytest.raises(wire.BadPacket):
        wire.decode(broken(change))


def test_what_is_far_too_long_is_not_even_parsed() -> None:
    with pytest.raises(wire.BadPacket, match="bytes"):
        wire.decode(bytes(wire.MOST_BYTES + 1))


def mutate(raw: bytes, choice: random.Random) -> bytes:
    made = bytearray(raw)
    for _ in range(choice.choice((1, 1, 2, 4, 8))):
        at = choice.randrange(len(made) + 1)
        match choice.randrange(5):
            case 0:
                del made[at:]
            case 1:
                del made[at : at + choice.randrange(1, 9)]
            case 2:
                made[at:at] = choice.randbytes(choice.randrange(1, 9))
            case 3:
                made[at:at] = made[at : at + choice.randrange(64)]
            case _ if at < len(made):
                made[at] ^= 1 << choice.randrange(8)
    return bytes(made)


def test_only_the_declared_error_leaves_the_decoder() -> None:
    choice, tried, read = random.Random(1), 0, 0
    kinds = (
        Ping(5, ME, b"a"),
        Ack(1, 2**63, b"b"),
        Ask(1, ME),
        Told(1, ME, answered=True),
        Gossip(),
        Sync(reply=True),
        Mail(b"letter"),
    )
    pool = [wire.encode(Packet(ME, 3, 4, kind, SAMPLE.claims, SAMPLE.rumours)) for kind in kinds]
    end = time.monotonic() + FUZZ_S
    while time.monotonic() < end:
        mutant = mutate(choice.choice(pool), choice)
        tried += 1
        try:
            packet = wire.decode(mutant)
        except wire.BadPacket:
            continue
        read += 1
        assert wire.decode(wire.encode(packet)) == packet
        if len(pool) < 4000:
            pool.append(mutant)
    print(f"\n{tried} mutants, {read} of them could be read")
    assert 0 < read < tried


def test_the_generated_modules_say_what_their_proto_files_say() -> None:
    descriptors = generate.descriptors()
    for module, name in ((pb, "swim"), (engine_pb2, "engine")):
        committed, fresh = FileDescriptorProto(), FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(committed)
        fresh.CopyFrom(descriptors[f"mill/cluster/proto/{name}.proto"])
        for file in (committed, fresh):
            for message in [
                *file.message_type,
                *(inner for outer in file.message_type for inner in outer.nested_type),
            ]:
                for field in message.field:
                    field.ClearField("json_name")  # spelled out in a set, left to be derived at run time
        assert committed.SerializeToString(deterministic=True) == fresh.SerializeToString(deterministic=True)
    directory = Path(str(proto.__file__)).parent
    assert sorted(path.stem for path in directory.glob("*.proto")) == ["engine", "swim"]
    assert {value.name: value.number for value in pb.State.DESCRIPTOR.values} == {
        state.name: state.value for state in MemberState
    }
