"""What makes this node a part of the cluster: the port where other nodes come, and the connections to them. Wired by `node`.

A node that nobody told of others, by ``--advertise`` or ``--join``, opens no port for them: it is alone.
"""

from contextlib import AsyncExitStack
from functools import partial
from socket import socket as Socket  # noqa: N812 -- a class

from mill.api import server as api_server
from mill.api.peer import make_peer_app
from mill.api.server import Load
from mill.cluster.messages import Packet
from mill.cluster.values import Address, NodeId
from mill.config import Config
from mill.daemon import host, peers
from mill.daemon.layers import Layer
from mill.daemon.peers import Peers
from mill.errors import Unavailable
from mill.security.channel import Channels, PeerTls


def bind(config: Config, layers: AsyncExitStack) -> Socket | None:
    """Where other nodes come; None where none is to come. `SetupError`."""
    if config.advertise is None and not config.join:
        return None
    address = Address(host.address_of(config), config.peer_port)
    return layers.enter_context(api_server.bind(str(address), "--peer-port"))


async def join(sock: Socket | None, channels: Channels, layer: Layer) -> Peers:
    """Let other nodes come, and reach them."""
    made: Peers = await layer(peers.serve, channels, _nobody)
    if sock is not None:
        await layer(partial(api_server.serve, make_peer_app(_refuse), sock, Load(), PeerTls(channels)))
    return made


def _nobody(_node: NodeId) -> Address | None:
    return None


def _refuse(_packet: Packet, _source: Address) -> None:
    raise Unavailable("this node takes part in no cluster yet")
