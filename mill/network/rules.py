"""Mill's rules: its own table, and what other tables must let through. Called by `links`, blocking, in the network's thread.

A packet that one table accepts another may still drop, so that the accepting rules go where something drops: Docker sets
the policy of FORWARD to DROP and asks others to use DOCKER-USER. Each of our rules carries the table's name as comment.
"""

from ipaddress import IPv4Network

import attrs

from mill.network import legacy
from mill.network import nftables as nft
from mill.network.kernel import Netlink
from mill.network.netlink import Request

FILTER = "filter"
"""iptables' table, as iptables-nft calls it too."""
_DOCKER, _FORWARD = "DOCKER-USER", "FORWARD"
_SOURCE_NAT_PRIORITY = 100


def accepted(netlink: Netlink, table: str) -> bool:
    """Whether both rules of the node whose *table* that is are where iptables decide on what is forwarded."""
    rules = map(nft.read_rule, netlink.dump(nft.get_rules(FILTER)))
    return sum(rule.comment == table for rule in rules) >= 2  # noqa: PLR2004 -- in and out


@attrs.define
class Rules:
    """The rules of one node, on its *bridge* with *subnet* of *range_*."""

    _netlink: Netlink
    table: str
    _bridge: str
    _range: IPv4Network
    _subnet: IPv4Network
    _generation: int = -1

    def ensure(self) -> None:
        """Everything in place; nothing is sent as long as nobody has changed any rule."""
        if self._now() != self._generation:
            self._ensure_own()
            self._ensure_accepted()
            self._generation = self._now()
        legacy.ensure(self._bridge, self.table)

    def remove(self) -> None:
        """Everything of ours out of every table."""
        foreign = [
            nft.delete_rule(FILTER, rule.chain, rule.handle)
            for rule in self._rules(FILTER)
            if rule.comment == self.table
        ]
        for batch in ([nft.delete_table(self.table)], foreign):
            if batch:
                self._netlink.do_together(*batch)
        self._generation = -1
        legacy.remove(self._bridge, self.table)

    def close(self) -> None:
        self._netlink.close()

    def _now(self) -> int:
        return nft.read_generation(self._netlink.ask(nft.get_generation()))

    def _rules(self, table: str) -> list[nft.Rule]:
        return [nft.read_rule(answer) for answer in self._netlink.dump(nft.get_rules(table))]

    def _own(self) -> list[Request]:
        """Out by the node's own address, except to the other nodes' tasks; in only from tasks, and what answers."""
        into = nft.interface(nft.IN_NAME, self._bridge, same=False) + nft.interface(
            nft.OUT_NAME, self._bridge
        )
        abroad = (
            nft.address(nft.SOURCE, self._subnet)
            + nft.address(nft.DESTINATION, self._range, same=False)
            + nft.interface(nft.OUT_NAME, self._bridge, same=False)
        )
        rules = [
            ("postrouting", abroad + nft.counter() + nft.masquerade()),
            ("forward", into + nft.answers() + nft.counter() + nft.verdict(nft.ACCEPT)),
            (
                "forward",
                into + nft.address(nft.SOURCE, self._range) + nft.counter() + nft.verdict(nft.ACCEPT),
            ),
            ("forward", into + nft.counter() + nft.verdict(nft.DROP)),
        ]
        return [
            nft.new_chain(self.table, "postrouting", "nat", nft.POSTROUTING, _SOURCE_NAT_PRIORITY),
            nft.new_chain(self.table, "forward", "filter", nft.FORWARD, 0),
            *(nft.new_rule(self.table, chain, rule, comment=self.table) for chain, rule in rules),
        ]

    def _ensure_own(self) -> None:
        wanted = self._own()
        if len(self._rules(self.table)) != len(wanted) - 2:
            again = [nft.new_table(self.table), nft.delete_table(self.table), nft.new_table(self.table)]
            self._netlink.do_together(*again, *wanted)

    def _ensure_accepted(self) -> None:
        """At the head of DOCKER-USER, or of FORWARD where Docker is not: those of iptables-nft."""
        chains = {
            chain
            for table, chain in map(nft.read_chain, self._netlink.dump(nft.get_chains()))
            if table == FILTER
        }
        chain = next((name for name in (_DOCKER, _FORWARD) if name in chains), None)
        if chain is None:
            return
        ours = [rule for rule in self._rules(FILTER) if rule.comment == self.table and rule.chain == chain]
        if len(ours) == 2:  # noqa: PLR2004 -- in and out
            return
        gone = [nft.delete_rule(FILTER, chain, rule.handle) for rule in ours]
        new = [
            nft.new_rule(
                FILTER, chain, nft.interface(key, self._bridge) + nft.counter() + nft.verdict(nft.ACCEPT),
                comment=self.table, first=True,
            )
            for key in (nft.IN_NAME, nft.OUT_NAME)
        ]  # fmt: skip
        self._netlink.do_together(*gone, *new)
