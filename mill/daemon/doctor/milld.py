"""milld itself: its token and identity, whether it runs, whether it answers, and what it says."""

import http.client
import json
import ssl
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from mill.daemon.datadir import API_NAME, AUTHORITY_NAME, NODE_NAME, TOKEN_NAME
from mill.daemon.doctor.findings import Finding, ok, problem, warning
from mill.daemon.doctor.host import Host, read
from mill.errors import SetupError
from mill.security import secret_file
from mill.security.secret_file import SECRET_NAME

ANSWER_S = 10.0
"""For milld to say how it is. Usual: 5 ms; a machine that swaps takes seconds."""
UNAUTHORIZED = 401


def identity(host: Host) -> Iterator[Finding]:
    """The files that a start reads before anything else."""
    file, text = host.data_dir / NODE_NAME, host.node_id
    if file.exists():
        yield judge_identity(file, text)
    token = host.data_dir / TOKEN_NAME
    if token.exists():
        yield judge_token(token, read(token).strip(), stat.S_IMODE(token.stat().st_mode))
    else:
        yield ok("token", f"{token} is made at the first start")
    yield judge_secret(host.data_dir / SECRET_NAME)


def judge_secret(file: Path) -> Finding:
    try:
        ring = secret_file.read(file)
    except SetupError as error:
        advice = "put the old one back: without it this node is of no cluster, and its certificates are trusted by none"
        return problem("secret", str(error), advice)
    if ring is None:
        return ok("secret", f"{file} is made at the first start")
    return ok("secret", f"{file}, key {ring.used.key_id.hex()}")


def judge_identity(file: Path, text: str) -> Finding:
    try:
        return ok("node", f"id {UUID(text)}")
    except ValueError:
        return problem(
            "node",
            f"{file} holds no node id",
            "put the old one back; without it this is a new node, which knows no task",
        )


def judge_token(file: Path, token: str, mode: int) -> Finding:
    if not token or not token.isascii():
        return problem(
            "token", f"{file} holds no token", f"rm {file}; the next start of milld makes a new one"
        )
    if mode & 0o077:
        return warning(
            "token",
            f"{file} can be read by others (mode {mode:04o}): who has it runs anything here as root",
            f"chmod 600 {file}",
            f"if it may have been read: rm {file}, and restart milld for a new one",
        )
    return ok("token", f"{file}, mode {mode:04o}")


def milld(host: Host) -> Iterator[Finding]:
    pid = host.milld_of(host.data_dir)
    if pid is None:
        yield warning(
            "milld",
            f"does not run on {host.data_dir}",
            "start it: systemctl start milld, or milld with its options",
        )
        return
    said = read(host.data_dir / API_NAME)
    try:
        address = str(json.loads(said)["address"])
    except (ValueError, LookupError, TypeError):
        yield problem(
            "milld", f"pid {pid} has not said where its API is", "wait for its start to end; see its log"
        )
        return
    try:
        code, answer = _ask(
            address, read(host.data_dir / TOKEN_NAME).strip(), read(host.data_dir / AUTHORITY_NAME)
        )
    except (OSError, ValueError, http.client.HTTPException) as error:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        yield problem(
            "milld",
            f"pid {pid} does not answer at {address}: {why}",
            "see its log; a restart of milld leaves tasks running",
        )
        return
    yield from judge_answer(pid, address, code, answer)


def _ask(address: str, token: str, authority: str) -> tuple[int, Any]:
    """What ``GET /v1/status`` says."""
    parts = urlsplit(address)
    host, port = parts.hostname or "", parts.port
    connection = http.client.HTTPConnection(host, port, timeout=ANSWER_S)
    if parts.scheme == "https":
        context = ssl.create_default_context(cadata=authority)
        connection = http.client.HTTPSConnection(host, port, timeout=ANSWER_S, context=context)
    with closing(connection):
        connection.request("GET", "/v1/status", headers={"Authorization": f"Bearer {token}"})
        response = connection.getresponse()
        return response.status, json.loads(response.read() or b"null")


def judge_answer(pid: int, address: str, code: int, answer: Any) -> Iterator[Finding]:
    if code == UNAUTHORIZED:
        yield problem(
            "milld",
            f"pid {pid} at {address} refuses the token in {TOKEN_NAME}",
            "restart milld: it reads the token at its start",
        )
    elif code != http.client.OK or not isinstance(answer, dict):
        yield problem("milld", f"pid {pid} at {address} answers with {code}", "see its log")
    elif not answer.get("runtime_ok"):
        yield problem(
            "milld",
            f"pid {pid} at {address} has lost containerd",
            "see its log and containerd's; it reconnects by itself",
        )
    else:
        tasks = ", ".join(f"{count} {status}" for status, count in sorted(answer["tasks"].items()) if count)
        yield ok(
            "milld",
            f"{answer['version']} (pid {pid}) answers at {address}: node {answer['node']}, "
            f"containerd {answer['containerd']}, {tasks or 'no tasks'}",
        )
