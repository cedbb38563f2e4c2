"""USER of an image or a spec, looked up in the image's own passwd and group files, as Docker and runc do. Pure.

``name``, ``uid``, ``name:group``, ``uid:gid`` and their mixtures. A number is an id, never a name, and need not be in the
files; a name must.
`runtime` reads the files once per image and calls `resolve` at each start.
"""

from collections.abc import Iterator

import attrs

from mill.containerd.spec import User
from mill.errors import StartError

_MOST_ID = 2**31 - 1
_MOST_DIGITS = len(str(_MOST_ID))


@attrs.frozen
class Accounts:
    """The text of an image's ``/etc/passwd`` and ``/etc/group``; empty where it has none."""

    passwd: str = ""
    group: str = ""


def resolve(user: str, accounts: Accounts) -> User:
    """The numeric ids of *user* (empty: root), or `StartError` with detail ``user``."""
    who, _, group = user.partition(":")
    who = who or "0"
    entry = _passwd_entry(who, accounts.passwd)
    if entry is None and not _is_number(who):
        raise StartError("user", f"the image has no user {who!r}: its /etc/passwd does not name it")
    name, uid, gid, home = entry or ("", _id(who), 0, "/")
    if group:
        return User(uid, _gid(group, accounts.group), (), home)
    return User(uid, gid, _memberships(name, gid, accounts.group), home)


def _passwd_entry(who: str, passwd: str) -> tuple[str, int, int, str] | None:
    number = _id(who) if _is_number(who) else None
    for fields in _rows(passwd, 6):  # passwd(5), the shell may be missing
        uid, gid = _id_or_none(fields[2]), _id_or_none(fields[3])
        found = (who == fields[0]) if number is None else (number == uid)
        if found and uid is not None and gid is not None:
            return fields[0], uid, gid, fields[5] or "/"
    return None


def _groups(group: str) -> Iterator[tuple[str, int, list[str]]]:
    for fields in _rows(group, 3):  # group(5), the members may be missing
        gid = _id_or_none(fields[2])
        if gid is not None:
            yield fields[0], gid, fields[3].split(",") if fields[3:] else []


def _gid(wanted: str, group: str) -> int:
    number = _id(wanted) if _is_number(wanted) else None
    for name, gid, _ in _groups(group):
        if (wanted == name) if number is None else (number == gid):
            return gid
    if number is None:
        raise StartError("user", f"the image has no group {wanted!r}: its /etc/group does not name it")
    return number


def _memberships(name: str, gid: int, group: str) -> tuple[int, ...]:
    found = {other for _, other, members in _groups(group) if name and name in members}
    return tuple(sorted(found - {gid}))


def _rows(text: str, least: int) -> Iterator[list[str]]:
    """The lines with *least* fields; only a newline ends one, whatever else `str.splitlines` takes for an end."""
    for line in text.split("\n"):
        fields = line.strip().split(":")
        if len(fields) >= least:
            yield fields


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _id_or_none(text: str) -> int | None:
    """The id that an image's file says, unless it is none."""
    if not _is_number(text) or len(text.lstrip("0")) > _MOST_DIGITS or int(text) > _MOST_ID:
        return None
    return int(text)


def _id(text: str) -> int:
    number = _id_or_none(text)
    if number is None:
        raise StartError("user", f"{text[:40]} is no user or group id: the highest is {_MOST_ID}")
    return number
