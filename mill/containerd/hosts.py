"""How the configuration wants registries to be reached: by TLS or not, by whose word, through which mirrors. Pure.

Docker Hub has several names; by whichever the configuration calls it, it is found. A mirror keeps the images of another
registry under the same repositories and is in all else a registry of its own: with its own credentials, or none.
It is believed about tags, as Docker does it; a digest needs no belief. `credentials` holds it for all who ask registries.
"""

from collections.abc import Mapping

import attrs

from mill.config import RegistryConfig
from mill.containerd import reference
from mill.containerd.reference import Reference

_SILENT = RegistryConfig()


@attrs.frozen
class Hosts:
    """The entries by host, as `key_of` spells it."""

    entries: Mapping[str, RegistryConfig]

    def entry(self, host: str) -> RegistryConfig:
        """What the configuration says of *host*; where it says nothing, the defaults."""
        return self.entries.get(key_of(host), _SILENT)

    def plain_http(self, host: str) -> bool:
        """Whether *host* is asked without TLS: as its entry says, else only on loopback."""
        entry = self.entry(host)
        if entry.plain_http is None:
            return reference.is_loopback(host) and entry.ca is None
        return entry.plain_http

    def authorities(self) -> dict[str, str]:
        """The certificate authorities of single registries: PEM files by host."""
        return {host: entry.ca for host, entry in self.entries.items() if entry.ca is not None}

    def mirrors(self, ref: Reference) -> tuple[Reference, ...]:
        """*ref* as each mirror of its registry has it, in the order in which to ask them."""
        keys = dict.fromkeys(key_of(mirror) for mirror in self.entry(ref.pull_host).mirrors)
        return tuple(attrs.evolve(ref, host=key) for key in keys if key != ref.pull_host)


def hosts_of(registries: Mapping[str, RegistryConfig]) -> Hosts:
    """Out of the configuration's tables. A mirror that is written as a URL says by it whether it speaks TLS."""
    entries: dict[str, RegistryConfig] = {}
    for name, entry in registries.items():
        entries.setdefault(key_of(name), entry)
    for mirror in (mirror for entry in registries.values() for mirror in entry.mirrors):
        scheme, separator, _ = mirror.partition("://")
        if separator:
            key = key_of(mirror)
            entries[key] = attrs.evolve(entries.get(key, _SILENT), plain_http=scheme == "http")
    return Hosts(entries)


def key_of(written: str) -> str:
    """The one spelling of a host in the configuration, which may be a URL or any of Docker Hub's names."""
    bare = written.rpartition("://")[2].partition("/")[0]
    return reference.api_host(bare.lower())
