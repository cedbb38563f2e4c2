"""Datagrams: what was sealed is opened, once; nothing else is, whatever is done to it; memory stays bounded."""

import random
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mill.security.box import (
    HEADER,
    MOST_BYTES,
    OVERHEAD_BYTES,
    WINDOW,
    Opened,
    Opener,
    Refusal,
    Sealer,
    sender_of,
)
from mill.security.keys import Keyring, Secret

A, B, C = "aa" * 16, "bb" * 16, "cc" * 16
BOOT, REBOOT = b"boot" * 4, b"next" * 4
OLD, NEW, FOREIGN = (Secret(bytes([number]) * 32) for number in range(3))
RING = Keyring(OLD)


def sealer(me: str = A, boot: bytes = BOOT, ring: Keyring = RING, counter: int = 0) -> Sealer:
    return Sealer(ring, me, boot, counter)


@pytest.fixture
def opener() -> Opener:
    return Opener(RING, B)


def payloads(opener: Opener, datagrams: list[bytes]) -> list[bytes | Refusal]:
    found = [opener.open(datagram) for datagram in datagrams]
    return [one.payload if isinstance(one, Opened) else one for one in found]


# -- open and shut --------------------------------------------------------------------------------------------------


@given(st.binary(max_size=2000))
def test_what_was_sealed_is_opened_with_its_sender(payload: bytes) -> None:
    datagram = sealer().seal(payload)
    assert len(datagram) == len(payload) + OVERHEAD_BYTES
    assert Opener(RING, B).open(datagram) == Opened(A, BOOT, payload)


def test_nothing_of_it_is_in_clear() -> None:
    sealed = sealer()
    first, second = sealed.seal(b"the same words"), sealed.seal(b"the same words")
    assert b"words" not in first
    assert first[HEADER.size :] != second[HEADER.size :]


def test_no_nonce_is_used_twice_with_a_key() -> None:
    """A key for each sender and boot id, a counter for each datagram: over all of them, no stream of cipher is the same."""
    nothing = bytes(32)
    streams = set()
    for me, boot in ((A, BOOT), (A, REBOOT), (B, BOOT), (B, REBOOT)):
        one = sealer(me, boot)
        streams |= {one.seal(nothing)[HEADER.size :][:32] for _ in range(50)}
    assert len(streams) == 200


def test_a_counter_is_never_begun_anew(opener: Opener) -> None:
    last = sealer(counter=2**64 - 1)
    assert payloads(opener, [last.seal(b"last")]) == [b"last"]
    with pytest.raises(OverflowError):
        last.seal(b"one more")


def test_the_longest_datagram_fits_and_a_longer_one_is_refused(opener: Opener) -> None:
    longest = bytes(MOST_BYTES - OVERHEAD_BYTES)
    assert payloads(opener, [sealer().seal(longest)]) == [longest]
    with pytest.raises(ValueError, match="too many"):
        sealer().seal(longest + b"x")
    assert opener.open(bytes(MOST_BYTES + 1)) is Refusal.SIZE


@pytest.mark.parametrize(("me", "boot"), [("aa", BOOT), ("aa" * 17, BOOT), (A, b"short")])
def test_ids_have_their_length(me: str, boot: bytes) -> None:
    with pytest.raises(ValueError):
        Sealer(RING, me, boot)


# -- damage and strangers -------------------------------------------------------------------------------------------


def test_every_flipped_bit_is_noticed(opener: Opener) -> None:
    datagram = sealer().seal(b"some payload")
    for bit in range(len(datagram) * 8):
        flipped = bytearray(datagram)
        flipped[bit // 8] ^= 1 << bit % 8
        assert isinstance(opener.open(bytes(flipped)), Refusal), bit
    assert len(opener) == 0
    assert payloads(opener, [datagram]) == [b"some payload"]  # none of them took its place


def test_every_truncation_and_addition_is_noticed(opener: Opener) -> None:
    datagram = sealer().seal(b"some payload")
    for length in range(len(datagram)):
        assert isinstance(opener.open(datagram[:length]), Refusal)
    assert opener.open(datagram + b"\0") is Refusal.FORGED
    assert len(opener) == 0


@given(st.binary(max_size=300))
def test_noise_is_refused(noise: bytes) -> None:
    assert isinstance(Opener(RING, B).open(noise), Refusal)


def test_each_refusal_says_why(opener: Opener) -> None:
    good = sealer().seal(b"x")
    assert opener.open(b"\x02" + good[1:]) is Refusal.VERSION
    assert opener.open(sealer(ring=Keyring(FOREIGN)).seal(b"x")) is Refusal.KEY
    assert opener.open(sealer(me=B).seal(b"x")) is Refusal.OWN
    renamed = HEADER.pack(1, OLD.key_id, bytes.fromhex(C), BOOT, 0) + good[HEADER.size :]
    assert opener.open(renamed) is Refusal.FORGED
    borrowed = HEADER.pack(1, OLD.key_id, bytes.fromhex(A), BOOT, 0)
    assert opener.open(borrowed + sealer(ring=Keyring(FOREIGN)).seal(b"x")[HEADER.size :]) is Refusal.FORGED


# -- replays --------------------------------------------------------------------------------------------------------


def test_what_is_refused_still_bears_a_name() -> None:
    sealed = sealer().seal(b"x")
    assert sender_of(sealed) == A
    assert [sender_of(wrong) for wrong in (b"", sealed[: HEADER.size - 1], b"\xff" + sealed[1:])] == [
        None
    ] * 3


def test_a_replay_is_refused(opener: Opener) -> None:
    datagram = sealer().seal(b"once")
    assert payloads(opener, [datagram, datagram]) == [b"once", Refusal.REPLAYED]


@given(st.permutations(range(40)))
def test_what_comes_in_another_order_is_opened_once_each(order: list[int]) -> None:
    sent = [sealer(counter=number).seal(b"%d" % number) for number in range(40)]
    opener = Opener(RING, B)
    assert payloads(opener, [sent[number] for number in order]) == [b"%d" % number for number in order]
    assert payloads(opener, sent) == [Refusal.REPLAYED] * 40


def test_one_that_lags_is_taken_up_to_the_window(opener: Opener) -> None:
    one = sealer()
    sent = [one.seal(b"%d" % number) for number in range(WINDOW + 1)]
    assert payloads(opener, [sent[WINDOW], sent[0], sent[1]]) == [b"%d" % WINDOW, Refusal.REPLAYED, b"1"]


def test_a_leap_of_the_counter_costs_no_memory(opener: Opener) -> None:
    low, high = sealer(counter=5), sealer(counter=2**63)
    early, late, after = low.seal(b"low"), high.seal(b"high"), high.seal(b"after")
    assert payloads(opener, [early, late, late, early, after]) == [
        b"low",
        b"high",
        Refusal.REPLAYED,
        Refusal.REPLAYED,
        b"after",
    ]
    session = next(iter(opener._sessions.values()))
    assert session.seen.bit_length() <= WINDOW


def test_a_window_is_what_a_set_of_all_counters_would_say() -> None:
    """A model beside it: a random walk of counters, with leaps, stragglers and repeats."""
    choose = random.Random(4)
    opener, latest, taken = Opener(RING, B), 0, set[int]()
    for _ in range(6000):
        step = choose.choice([1, 1, 1, 2, 300, 1500, -1, -2, -500, -1023, -1024, -1025])
        counter = max(0, latest + step)
        fine = counter not in taken and counter > max(taken, default=counter) - WINDOW
        opened = opener.open(sealer(counter=counter).seal(b""))
        assert isinstance(opened, Opened) is fine, (counter, latest)
        if fine:
            taken.add(counter)
        latest = max(latest, counter)


def test_a_restarted_sender_is_heard_at_once_and_its_past_is_not(opener: Opener) -> None:
    before, after = sealer(counter=5000), sealer(boot=REBOOT)
    old = before.seal(b"old")
    assert payloads(opener, [old, after.seal(b"new"), old]) == [b"old", b"new", Refusal.REPLAYED]


def test_replaying_many_past_starts_does_not_silence_the_present_one() -> None:
    opener = Opener(RING, B, sessions_each=4)
    past = [sealer(boot=bytes([number]) * 16).seal(b"past") for number in range(50)]
    now = sealer(boot=REBOOT)
    first = now.seal(b"now")
    assert payloads(opener, [first]) == [b"now"]
    for number in range(0, 50, 2):
        payloads(opener, past[number : number + 2])
        assert payloads(opener, [now.seal(b"still")]) == [b"still"]
    assert opener.open(first) is Refusal.REPLAYED
    assert len(opener) == 4


def test_two_senders_with_one_boot_id_do_not_meet(opener: Opener) -> None:
    assert payloads(opener, [sealer(A).seal(b"a"), sealer(C).seal(b"c")]) == [b"a", b"c"]


# -- a change of the secret -----------------------------------------------------------------------------------------


def test_while_the_secret_changes_everybody_is_understood(opener: Opener) -> None:
    one = sealer()
    both = RING.install(NEW)
    ring_of_each_step = [(RING, both), (both, both), (both.use(NEW.key_id), both.use(NEW.key_id))]
    for number, (senders, openers) in enumerate(ring_of_each_step):
        one.use(senders)
        opener.use(openers)
        assert payloads(opener, [one.seal(b"%d" % number)]) == [b"%d" % number]
    opener.use(both.use(NEW.key_id).remove(OLD.key_id))
    assert payloads(opener, [sealer(counter=9).seal(b"by the old one"), one.seal(b"x")]) == [
        Refusal.KEY,
        b"x",
    ]


def test_a_change_of_the_secret_opens_no_way_for_replays(opener: Opener) -> None:
    datagram = sealer().seal(b"once")
    payloads(opener, [datagram])
    opener.use(RING.install(NEW).use(NEW.key_id))
    assert opener.open(datagram) is Refusal.REPLAYED


# -- bounds ---------------------------------------------------------------------------------------------------------


def senders(count: int) -> Iterator[str]:
    return (f"{number:032x}" for number in range(count))


def test_memory_is_bounded_with_many_senders_and_those_heard_of_stay() -> None:
    opener = Opener(RING, B, most_sessions=100)
    steady = sealer()
    for name in senders(1000):
        assert payloads(opener, [sealer(name).seal(b""), steady.seal(b"")]) == [b"", b""]
        assert len(opener) <= 100
    assert len(opener._boots) == 100
    assert opener.open(sealer().seal(b"")) is Refusal.REPLAYED


def test_forgeries_leave_nothing_behind(opener: Opener) -> None:
    noise = random.Random(1)
    for name in senders(500):
        datagram = HEADER.pack(1, OLD.key_id, bytes.fromhex(name), noise.randbytes(16), 0) + noise.randbytes(
            40
        )
        assert opener.open(datagram) is Refusal.FORGED
    assert len(opener) == 0
    assert opener._boots == {}


def test_a_full_table_takes_a_few_megabytes() -> None:
    """Of Python's own objects; a full window is an int of 1024 bits."""
    opener = Opener(RING, B)
    for name in senders(200):
        one = sealer(name)
        for _ in range(3):
            opener.open(one.seal(b""))
    each = 0
    for (sender, boot), session in opener._sessions.items():
        parts = (sender, boot, (sender, boot), session, session.seen, session.latest, session.ciphers)
        each = max(each, sum(map(sys.getsizeof, parts)))
    print(f"{each} bytes for each sender of 4096 at most")
    assert each < 1500
