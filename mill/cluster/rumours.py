"""The engine's single news: under which key each goes as a rumour, so that the newest of a thing displaces what it replaces. Pure."""

from hashlib import blake2b

from mill.cluster.entries import Entry, Verdict
from mill.cluster.settings import Setting

CLAIM_KEY = "leader"
ENTRY, VERDICT, SETTING = "task:", "lost:", "setting:"


def entry_key(entry: Entry) -> str:
    return ENTRY + entry.task


def verdict_key(verdict: Verdict) -> str:
    return VERDICT + verdict.owner


def setting_key(setting: Setting) -> str:
    """A setting's own key may be longer than a rumour's."""
    return SETTING + blake2b(setting.key.encode(), digest_size=16).hexdigest()
