"""How much of everything DNS takes, in bytes, seconds and numbers. Pure: no behaviour.

Beside `mill.config`, which has no room for them; none is an option.
"""

BATCH = 32
"""Datagrams answered before the rest of milld gets its turn: about a millisecond."""
RECEIVE_BUFFER_BYTES = 4 * 1024**2
"""Asked of the kernel: some seconds' worth of queries at 1,000 a second, for a loop that is busy elsewhere."""
CONNECTIONS = 256
"""Open TCP connections of one listener; further ones wait in the kernel's backlog."""
IDLE_S = 10.0
"""A TCP connection that completes no query for so long is closed (RFC 7766 asks for a few seconds), as is one that takes no answer."""
PIPELINE = 32
"""Queries of one TCP connection that wait for upstream or for other nodes; the next is read when one is done."""
WAITING = 1024
"""Queries that wait for upstream or for other nodes, of all clients; more get SERVFAIL at once."""
FLIGHTS = 512
"""Questions on their way to upstreams, each with a socket of its own."""
PATIENCE_S = 4.5
"""For an answer from upstream, all tries together: resolvers give up after 5 s (resolv.conf(5))."""
TRY_S = 2.0
"""For one try at one upstream, less where there are many: each gets its turn. Usual: 1 to 100 ms."""
CACHE_BYTES = 4 * 1024**2
"""Answers from upstream that are kept: some five thousand."""
RESOLV_CONF_S = 1.0
"""Between two looks at whether resolv.conf has changed."""
