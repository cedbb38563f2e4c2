"""How far a pull is, layer by layer, as those who do its parts tell it. Pure; `flights` shows it to whoever waits."""

from collections.abc import Callable, Iterable

import attrs

from mill.model import LayerProgress, LayerState, PullProgress, Time


@attrs.define(eq=False)
class Layer:
    """What has happened to one layer: its bytes and its snapshot come independently, and either may have been there."""

    size: int
    done: int = 0
    fetched: bool = False
    stored: bool = False
    unpacking: bool = False
    unpacked: bool = False
    made: bool = False
    """The snapshot was not there before."""

    @property
    def state(self) -> LayerState:
        if self.stored and self.unpacked:
            return LayerState.DONE if self.fetched or self.made else LayerState.EXISTS
        if self.unpacking:
            return LayerState.UNPACKING
        if self.stored:
            return LayerState.DOWNLOADED
        return LayerState.DOWNLOADING if self.fetched else LayerState.WAITING


@attrs.define(eq=False)
class Progress:
    """`total` and `other` (documents that are no layers) are bytes; a layer begun anew may go back."""

    total: int | None = None
    other: int = 0
    layers: dict[str, Layer] = attrs.field(factory=dict)
    fetched: Time | None = None
    unpack_began: Time | None = None
    on_unpack: Callable[[], None] = lambda: None
    """Called before each layer that is not unpacked yet."""

    def expect(self, total: int, layers: Iterable[tuple[str, int]]) -> None:
        """What the manifest says: bytes in all, and (digest, size) of each layer, bottom first."""
        self.total, self.other = total, 0
        self.layers = {digest: Layer(size) for digest, size in layers}

    def fetching(self, digest: str) -> None:
        self.layers[digest].fetched = True

    def came(self, digest: str, done: int) -> None:
        self.layers[digest].done = done

    def stored(self, digest: str) -> None:
        self.layers[digest].stored = True

    def unpacking(self, digest: str) -> None:
        self.on_unpack()
        self.layers[digest].unpacking = True

    def unpacked(self, digest: str, *, made: bool) -> None:
        """Its snapshot is there; *made* by this pull, or found."""
        layer = self.layers[digest]
        layer.unpacking, layer.unpacked = False, True
        layer.made |= made

    def value(self) -> PullProgress:
        layers = tuple(
            LayerProgress(digest, one.state, one.done, one.size) for digest, one in self.layers.items()
        )
        return PullProgress(self.other + sum(one.done for one in layers), self.total, layers)
