"""The secret and its keys: one text for one secret, labels that separate, a ring that changes by steps that may be repeated."""

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mill.errors import Conflict, NotFound
from mill.security.keys import MOST_RETIRED, MOST_SECRETS, SECRET_BYTES, Keyring, Secret, derive, parse


def secret(number: int) -> Secret:
    return Secret(bytes([number]) * SECRET_BYTES)


# -- a secret and its text ------------------------------------------------------------------------------------------


@given(st.binary(min_size=SECRET_BYTES, max_size=SECRET_BYTES))
def test_a_secret_is_read_back_from_its_text(key: bytes) -> None:
    assert parse(Secret(key).text) == Secret(key)


@given(st.data())
def test_a_wrong_digit_is_noticed(data: st.DataObject) -> None:
    text = secret(1).text
    at = data.draw(st.integers(len("mill1-"), len(text) - 1))
    wrong = data.draw(st.sampled_from("0123456789abcdef").filter(lambda digit: digit != text[at]))
    with pytest.raises(ValueError, match=r"is not whole|is no cluster secret"):
        parse(text[:at] + wrong + text[at + 1 :])


@pytest.mark.parametrize(
    "odd",
    ["", "x", "mill1-", secret(1).text.upper(), f" {secret(1).text}", f"{secret(1).text}\n", secret(1).text[:-1],
     secret(1).text + "0", secret(1).text.replace("mill1", "mill2"), secret(1).text.replace("1", "\u0661"), "\0" * 79],
)  # fmt: skip
def test_anything_else_is_refused_without_being_repeated(odd: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse(odd)
    assert secret(1).key.hex()[:16] not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_repr_shows_a_secret() -> None:
    ring = Keyring(secret(1), (secret(2),))
    for hidden in (secret(1), secret(2)):
        assert hidden.key.hex() not in repr(ring)
        assert repr(hidden.key) not in repr(ring)
        assert hidden.key_id.hex() in repr(ring)


def test_a_secret_has_all_its_bytes() -> None:
    with pytest.raises(ValueError, match="32 bytes, not 31"):
        Secret(b"x" * 31)


# -- keys -----------------------------------------------------------------------------------------------------------


def test_keys_stay_what_they_are() -> None:
    """Another derivation would be another cluster: these were computed once, by HMAC alone (RFC 5869)."""

    def by_hand(key: bytes, info: bytes, length: int) -> bytes:
        extracted = hmac.digest(b"mill/1", key, hashlib.sha256)
        return hmac.digest(extracted, info + b"\x01", hashlib.sha256)[:length]

    one = secret(1)
    assert one.key_id == by_hand(one.key, b"mill/1/key id\0", 4)
    assert one.gossip_key == by_hand(one.key, b"mill/1/gossip\0", 32)
    assert one.authority_seed == by_hand(one.key, b"mill/1/authority\0", 32)
    assert one.text == "mill1-e1f24dce-" + "01" * 32


def test_no_two_uses_share_a_key() -> None:
    one, two = secret(1), secret(2)
    keys = [one.gossip_key, one.authority_seed, two.gossip_key, two.authority_seed, one.key, two.key]
    keys += [derive(one.key, b"gossip", b"a"), derive(one.key, b"gossip", b"b"), derive(one.key, b"gossipa")]
    assert len(set(keys)) == len(keys)


# -- a ring ---------------------------------------------------------------------------------------------------------


def test_a_secret_is_changed_by_install_use_and_remove() -> None:
    ring = Keyring(secret(1)).install(secret(2))
    assert ring.used == secret(1)
    ring = ring.use(secret(2).key_id)
    assert (ring.used, ring.others) == (secret(2), (secret(1),))
    assert ring.remove(secret(1).key_id) == Keyring(secret(2), (), (secret(1).key_id,))


def test_each_step_may_be_done_again() -> None:
    ring = Keyring(secret(1)).install(secret(2))
    assert ring.install(secret(2)) == ring
    assert ring.install(secret(1)) == ring
    used = ring.use(secret(2).key_id)
    assert used.use(secret(2).key_id) == used
    gone = used.remove(secret(1).key_id)
    assert gone.remove(secret(1).key_id) == gone


def test_no_step_leaves_a_node_without_what_it_speaks_by() -> None:
    ring = Keyring(secret(1))
    with pytest.raises(Conflict, match="is in use"):
        ring.remove(secret(1).key_id)
    with pytest.raises(NotFound, match="install it first"):
        ring.use(secret(2).key_id)


def test_a_former_secret_does_not_come_back() -> None:
    used = Keyring(secret(1)).install(secret(2)).use(secret(2).key_id)
    with pytest.raises(Conflict, match="in use before"):
        used.use(secret(1).key_id)
    gone = used.remove(secret(1).key_id)
    with pytest.raises(Conflict, match="in use before"):
        gone.install(secret(1))
    assert gone.knew(secret(1).key_id)
    assert not gone.knew(secret(3).key_id)


def test_one_change_at_a_time() -> None:
    ring = Keyring(secret(1)).install(secret(2))
    with pytest.raises(Conflict, match=f"has begun, to {secret(2).key_id.hex()}"):
        ring.install(secret(3))
    assert ring.remove(secret(2).key_id).install(secret(3)).others == (secret(3),)


def test_a_ring_is_bounded() -> None:
    ring = Keyring(secret(1))
    for number in range(2, MOST_SECRETS + 1):
        ring = ring.install(secret(number)).use(secret(number).key_id)
    with pytest.raises(Conflict, match="remove one"):
        ring.install(secret(99))
    for number in range(100, 100 + MOST_RETIRED):
        ring = Keyring(ring.used, (), ring.retired).install(secret(number)).use(secret(number).key_id)
    assert len(ring.retired) == MOST_RETIRED
    assert ring.knew(secret(MOST_SECRETS).key_id)
    with pytest.raises(ValueError, match="more than"):
        Keyring(secret(99), tuple(secret(number) for number in range(MOST_SECRETS)))
    with pytest.raises(ValueError, match="twice"):
        Keyring(secret(1), (secret(1),))
