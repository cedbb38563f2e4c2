"""What a node says of its load: few bytes, read back as it was, and not at all by who does not know its form."""

from hypothesis import given
from hypothesis import strategies as st

from mill.cluster.letters import MOST_LOAD_BYTES
from mill.cluster.load import Load, decode, encode, of_images
from mill.model import NodeState, Resources

ROOM = st.builds(Resources, st.floats(0, 1e6), st.integers(0, 2**60))
LOADS = st.builds(
    Load, ROOM, ROOM, st.sampled_from(NodeState), st.integers(0, 2**512 - 1), st.integers(0, 2**16 - 1)
)


@given(LOADS, st.binary(max_size=20))
def test_it_is_read_back_as_it_was_whatever_a_newer_mill_adds(load: Load, more: bytes) -> None:
    said = encode(load)
    assert len(said) <= MOST_LOAD_BYTES
    assert decode(said + more) == load


@given(st.binary(max_size=200))
def test_noise_is_nothing_or_a_load(noise: bytes) -> None:
    decode(noise)
    assert decode(b"") is None
    assert decode(b"\x03" + noise) is None


def test_an_image_that_is_held_is_found_and_few_others_are() -> None:
    held = [f"docker.io/library/image-{number}:latest" for number in range(30)]
    load = Load(Resources(1, 1), Resources(1, 1), NodeState.ALIVE, of_images(held))
    assert all(load.holds(image) for image in held)
    wrong = sum(load.holds(f"docker.io/library/other-{number}:latest") for number in range(1000))
    assert wrong < 50
    assert not Load(Resources(1, 1), Resources(1, 1), NodeState.ALIVE).holds(held[0])
