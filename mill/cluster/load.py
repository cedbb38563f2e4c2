"""What a node says of its load on every beat, in few bytes: what it has and what is free, whether it takes tasks, which images it holds. Pure.

The images are a filter after Bloom (1970): one that is held is always found, one that is not is found by mistake now and then,
which costs a pull that another node might have been spared. Written by `daemon`, read by whoever places tasks.
"""

import hashlib
import struct
from collections.abc import Iterable

import attrs

from mill.model import NodeState, Resources

_FORM = 1
_HEAD = struct.Struct("!BBHddQQ")
_MOST_TASKS = 2**16 - 1
_STATES = tuple(NodeState)
_FILTER_BYTES = 64
_HASHES = 3
"""With 100 images one in twelve that is not held is taken for held."""


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
    head = _HEAD.pack(_FORM, state, tasks, capacity.cpu, free.cpu, capacity.memory, free.memory)
    return head + load.images.to_bytes(_FILTER_BYTES, "big")


def decode(data: bytes) -> Load | None:
    """None for what this Mill does not understand: such a node is sent nothing. What a newer one says beyond is passed over."""
    if len(data) < _HEAD.size + _FILTER_BYTES or data[0] != _FORM or data[1] >= len(_STATES):
        return None
    _, state, tasks, cpu, free_cpu, memory, free_memory = _HEAD.unpack_from(data)
    images = int.from_bytes(data[_HEAD.size : _HEAD.size + _FILTER_BYTES], "big")
    return Load(Resources(cpu, memory), Resources(free_cpu, free_memory), _STATES[state], images, tasks)
