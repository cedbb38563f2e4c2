"""How the parts of an engine reach the others: mail, rumours, pings, and what is to be done here. Pure; `engine` owns it."""

from collections.abc import Callable, Sequence

from mill.cluster import codec, effects
from mill.cluster.letters import Letter
from mill.cluster.outcomes import Outcome
from mill.cluster.swim import Swim
from mill.cluster.values import NodeId


class Post:
    """*run* takes the effects of the membership at once, so that all outcomes stand in the order of their causes."""

    def __init__(self, swim: Swim, run: Callable[[Sequence[effects.Effect]], None], now: float) -> None:
        self.swim = swim
        self.now = now
        self.wall = 0.0
        self.outcomes: list[Outcome] = []
        self._run = run

    @property
    def me(self) -> NodeId:
        return self.swim.me.id

    def emit(self, *outcomes: Outcome) -> None:
        self.outcomes += outcomes

    def mail(self, node: NodeId, letter: Letter, *, by_stream: bool) -> None:
        """Nothing, if *node* is not known (any more)."""
        if node in self.swim.members:
            self._run(self.swim.mail(node, codec.letter(letter), self.now, by_stream=by_stream))

    def mail_twice(self, node: NodeId, letter: Letter) -> None:
        """By datagram and by stream: it is short, and of use only if it arrives soon."""
        self.mail(node, letter, by_stream=False)
        self.mail(node, letter, by_stream=True)

    def tell(self, key: str, payload: bytes) -> None:
        """All members."""
        self._run(self.swim.broadcast(key, payload, self.now))

    def ping(self, node: NodeId) -> None:
        self._run(self.swim.ping(node, self.now))

    def say(self, *, joined_term: int) -> None:
        self._run(self.swim.say(self.now, joined_term=joined_term))
