"""Who we are to a registry: from Mill's own configuration, else from Docker's ``config.json`` and its helper programs.

Called by `authorization` with a registry's host; knows no HTTP. A secret never gets into a message, a log or a `repr`.
Docker's file is read anew each time (in a thread), so that a ``docker login`` needs no restart. Formats: Docker's
``config.json`` and the docker-credential-helpers protocol.
"""

import base64
import json
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import structlog
import trio

from mill.containerd.hosts import Hosts, hosts_of

HELPER_TIMEOUT_S = 15.0  # a helper may ask a cloud; longer than this and the pull goes on without it
_CONFIG_LIMIT_BYTES = 4 * 2**20
_HELPER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_HUB_KEYS = ("https://index.docker.io/v1/", "index.docker.io", "docker.io", "registry-1.docker.io")
_TOKEN_USER = "<token>"  # noqa: S105 -- the helpers' protocol: in place of a name, it says that the secret is an identity token

log = structlog.get_logger()


@attrs.frozen
class Credential:
    """A name and password, or an `identity_token` to be traded for tokens (OAuth 2 refresh token)."""

    username: str = ""
    password: str = attrs.field(default="", repr=False)
    identity_token: str = attrs.field(default="", repr=False)


@attrs.frozen
class Credentials:
    """The two sources, in order: `hosts` out of the configuration's tables, and Docker's file; None or a missing one holds nothing."""

    hosts: Hosts = attrs.field(converter=hosts_of)
    docker_config: Path | None = None
    helper_timeout_s: float = HELPER_TIMEOUT_S

    async def find(self, host: str) -> Credential | None:
        """The credential for *host*, None to stay anonymous."""
        names = _HUB_KEYS if host in _HUB_KEYS else (host,)
        configured = self.hosts.entry(host)
        if configured.username is not None:
            return Credential(configured.username, configured.password or "")
        config = await self._docker_config()
        helper = helper_for(config, names)
        if helper is not None:
            found = await self._ask_helper(helper, names[0])
            if found is not None:
                return found
        return from_auths(config, names)

    async def _docker_config(self) -> Mapping[str, Any]:
        path = self.docker_config
        if path is None:
            return {}
        try:
            text = await trio.to_thread.run_sync(_read_bounded, path)
            config = json.loads(text)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            log.warning(
                "docker config unreadable, pulling without it", path=str(path), error=type(error).__name__
            )
            return {}
        return config if isinstance(config, dict) else {}

    async def _ask_helper(self, helper: str, server: str) -> Credential | None:
        """What the helper program says; its failure is logged and means anonymous."""
        if not _HELPER_NAME.fullmatch(helper):
            log.warning("credential helper has a bad name, pulling without it", helper=helper)
            return None
        program = f"docker-credential-{helper}"
        try:
            with trio.fail_after(self.helper_timeout_s):
                ran = await trio.run_process(
                    [program, "get"],
                    stdin=server.encode(),
                    capture_stdout=True,
                    stderr=subprocess.DEVNULL,
                    check=False,
                )
        except trio.TooSlowError:
            log.warning(
                "credential helper did not answer, pulling without it", helper=program, registry=server
            )
            return None
        except OSError as error:
            log.warning(
                "credential helper cannot run, pulling without it", helper=program, error=error.strerror
            )
            return None
        if ran.returncode:  # the protocol's way to say "not found", too
            log.info("credential helper knows no credentials", helper=program, registry=server)
            return None
        return parse_helper_answer(ran.stdout)


def helper_for(config: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    """The helper that Docker would ask: the registry's own (``credHelpers``) before the common one (``credsStore``)."""
    own = config.get("credHelpers")
    for name in names:
        if isinstance(own, dict) and isinstance(own.get(name), str):
            return str(own[name])
    store = config.get("credsStore")
    return store if isinstance(store, str) and store else None


def from_auths(config: Mapping[str, Any], names: tuple[str, ...]) -> Credential | None:
    """The entry of ``auths`` for one of *names*; keys may be written as URLs (``https://host/v1/``)."""
    auths = config.get("auths")
    if not isinstance(auths, dict):
        return None
    by_host = {_bare(key): value for key, value in auths.items() if isinstance(value, dict)}
    for name in names:
        entry = auths.get(name) or by_host.get(_bare(name))
        found = _parse_auth(entry) if isinstance(entry, dict) else None
        if found is not None:
            return found
    return None


def parse_helper_answer(answer: bytes) -> Credential | None:
    try:
        document = json.loads(answer)
        name, secret = document["Username"], document["Secret"]
    except (ValueError, KeyError, TypeError):
        return None
    if not isinstance(name, str) or not isinstance(secret, str) or not secret:
        return None
    return Credential(identity_token=secret) if name == _TOKEN_USER else Credential(name, secret)


def _parse_auth(entry: Mapping[str, Any]) -> Credential | None:
    name, password = str(entry.get("username") or ""), str(entry.get("password") or "")
    encoded = entry.get("auth")
    if isinstance(encoded, str) and encoded:
        try:
            name, _, password = base64.b64decode(encoded).decode().partition(":")
        except ValueError:
            return None
        password = password.rstrip("\0")
    token = entry.get("identitytoken")
    if isinstance(token, str) and token:
        return Credential(name, identity_token=token)
    return Credential(name, password) if name else None


def _bare(key: str) -> str:
    return key.removeprefix("https://").removeprefix("http://").partition("/")[0].lower()


def _read_bounded(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(_CONFIG_LIMIT_BYTES + 1)
    if len(data) > _CONFIG_LIMIT_BYTES:
        raise ValueError("too large")
    return data
