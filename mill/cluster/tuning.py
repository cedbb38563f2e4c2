"""What can be tuned of the membership protocol: meaning, bound and why. Pure.

Where not said otherwise the numbers are those of memberlist's LAN defaults, on which Serf, Consul and Nomad run.
"""

import attrs


@attrs.frozen
class Tuning:
    """One for the whole cluster: members with different ones still understand each other."""

    probe_every_s: float = 0.5
    """Between two probes of a healthy node. Half of memberlist's: with its 1 s the last of 20 nodes learns of one crash in a
    hundred after 12 s. Costs 2 kbit/s."""
    probe_for_s: float = 1.0
    """What a probe takes at most, of which half goes by before others are asked to help."""
    relays: int = 3
    """Members that are asked to ping whoever does not answer."""
    relay_for_s: float = 0.4
    """How long one who was asked tries before it says that it got no answer either: in time for the probe's end."""
    answer_s: float = 5.0
    """Who answers later than that answers nothing; a stream at 30 % loss may need it."""
    pings: int = 4
    """Datagrams sent to one who does not answer, evenly over the probe's time: at 30 % loss one alone is lost every other time."""
    most_awareness: int = 7
    """A node that finds many mute doubts itself first: up to so many times it adds the normal interval (Lifeguard)."""

    suspicion_factor: float = 4.0
    """A suspect has at least factor * max(1, log10 N) seconds to object."""
    suspicion_stretch: float = 6.0
    """... and so many times more while nobody else has noticed it."""
    confirmations: int = 2
    """Others who must have noticed too, for the shortest time to hold."""

    gossip_every_s: float = 0.2
    """One round."""
    gossip_fanout: int = 3
    """Members told per round."""
    least_repeats: int = 16
    """How often a node passes on one claim or rumour, at least. memberlist's 4 * log10 N is weakest in a small cluster: with 5
    nodes at 30 % loss it lets 46 members an hour die for nothing."""
    repeats_factor: int = 8
    """... and this times the digits of N, where that is more."""

    contact_down_every_s: float = 2.0
    """Between two pings to a member that is down. Nothing else heals a partition that outlasted the suspicions."""
    stream_probe_every_s: float = 15.0
    """Between two pings by stream to one member after the other: a fault of TCP alone is not seen by datagrams."""
    path_strikes: int = 3
    """A way to a member counts as broken after so many probes in a row failed on it while another carried."""
    join_every_s: float = 2.0
    """Between two tries to reach the seeds, while nobody else is alive."""
    sync_every_s: float = 30.0
    """Between two full copies, at least, while the members' states keep moving..."""
    settled_s: float = 2.0
    """... but when nothing has moved for so long and digests still differ,"""
    settled_sync_every_s: float = 5.0
    """... a full copy is due after this."""
    left_kept_s: float = 86400.0
    """How long it is remembered that a member left, so that nobody who was cut off meanwhile brings it back."""
    pause_s: float = 1.0
    """Who wakes up so late was stopped itself, and blames nobody for what it missed."""

    datagram_bytes: int = 1171
    """A packet before it is sealed: with 61 bytes for that, and UDP and IPv6 headers, it fits any link (RFC 8200: 1280)."""
    rumour_bytes: int = 700
    """A longer rumour goes by stream."""
    most_members: int = 4096
    """Nodes that are held, at most; further ones are not let in."""
    most_rumours: int = 1024
    """Rumours on their way, and known ones, at most; what was told most often goes first."""
    most_questions: int = 4096
    """Pings whose answer is awaited, at most."""
    most_relayed: int = 256
    """Pings for others under way, at most; further ones are not taken on."""
