"""What a node remembers of its being in a cluster, in its data directory: at which address, and whether it founded it. Blocks for a file.

So that a restart without ``--advertise`` or ``--join`` is a member as before. `cluster` calls it, before there is a database.
"""

import json

import attrs

from mill.config import Config
from mill.daemon import datadir, host
from mill.errors import SetupError

NAME = "cluster.json"


@attrs.frozen
class Membership:
    """`address` is where other nodes come."""

    address: str
    founder: bool


def recall(config: Config) -> Membership | None:
    """As the last start had it, with what is configured now; None for a node that nobody told of others."""
    path = config.data_dir / NAME
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        kept = Membership(str(said["address"]), bool(said["founder"]))
    except FileNotFoundError:
        kept = None
    except (OSError, ValueError, LookupError, TypeError):
        raise SetupError(
            f"{path} cannot be read: remove it, and say again who is to be joined by --join"
        ) from None
    if config.advertise is not None or config.join:
        founder = not config.join if kept is None else kept.founder
        return Membership(host.address_of(config), founder)
    return kept


def remember(config: Config, membership: Membership) -> None:
    text = json.dumps(attrs.asdict(membership))
    datadir.write_whole(config.data_dir / NAME, f"{text}\n", mode=0o644)
