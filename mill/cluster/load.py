"""What a node says of its load on every beat, in few bytes: what it has and what is free, whether it takes tasks, which images it holds. Pure.

The images are a filter after Bloom (1970): one that is held is always found, one that is not is found by mistake now and then,
which costs a pull that another node might have been spared. Written by `daemon`, read by whoever places tasks.
"""

import hashlib
import struct
from collections.abc import Iterable

import attrs

from mill.model import NodeState, Resources

_FORM = 2
_HEAD = struct.Struct("!BBHddQQB")
_MOST_TASKS = 2**16 - 1
_STATES = tuple(NodeState)
_FILTER_BYTES = 64
_HASHES = 3
"""With 100 images one in twelve that is not held is taken for held."""
_MOST_PLACES = _FILTER_BYTES // 2 - 1
"""So many bits, or fewer, are told one by one: most nodes hold few images, and this goes out twice a second. One more would be as
long as the whole filter, by whose length it is known."""


@attrs.frozen
class Load:
    """`images` is the filter's bits, `tasks` how many the node has that have not ended."""

    capacity: Resources
    free: Resources
    state: NodeState
    images: int = 0
    tasks: int = 0

    @property
    def reserved(self) -> Resources:
        return Resources(self.capacity.cpu - self.free.cpu, self.capacity.memory - self.free.memory)

    def holds(self, image: str) -> bool:
        bits = _bits(image)
        return self.images & bits == bits


def of_images(images: Iterable[str]) -> int:
    """The filter of *images*, whole references."""
    made = 0
    for image in images:
        made |= _bits(image)
    return made


def _bits(image: str) -> int:
    digest = hashlib.blake2b(image.encode("utf-8", "surrogatepass"), digest_size=2 * _HASHES).digest()
    places = (int.from_bytes(digest[at : at + 2], "big") for at in range(0, len(digest), 2))
    made = 0
    for place in places:
        made |= 1 << place % (8 * _FILTER_BYTES)
    return made


def encode(load: Load) -> bytes:
    state, tasks = _STATES.index(load.state), min(load.tasks, _MOST_TASKS)
    capacity, free = load.capacity, load.free
    places = [place for place in range(8 * _FILTER_BYTES) if load.images >> place & 1]
    few = len(places) <= _MOST_PLACES
    images = struct.pack(f"!{len(places)}H", *places) if few else load.images.to_bytes(_FILTER_BYTES, "big")
    return (
        _HEAD.pack(_FORM, state, tasks, capacity.cpu, free.cpu, capacity.memory, free.memory, len(images))
        + images
    )


def decode(data: bytes) -> Load | None:
    """None for what this Mill does not understand: such a node is sent nothing. What a newer one says beyond is passed over."""
    if len(data) < _HEAD.size or data[0] != _FORM or data[1] >= len(_STATES):
        return None
    _, state, tasks, cpu, free_cpu, memory, free_memory, size = _HEAD.unpack_from(data)
    said = data[_HEAD.size : _HEAD.size + size]
    if len(said) < size:
        return None
    return Load(
        Resources(cpu, memory), Resources(free_cpu, free_memory), _STATES[state], _filter(said), tasks
    )


def _filter(said: bytes) -> int:
    if len(said) == _FILTER_BYTES:
        return int.from_bytes(said, "big")
    made = 0
    for (place,) in struct.iter_unpack("!H", said[: len(said) // 2 * 2]):
        made |= 1 << place % (8 * _FILTER_BYTES)
    return made
