"""A draft as TOML that `mill apply` reads back. Pure; called by `templates show`."""

import json
import re
from collections.abc import Mapping
from typing import Any

from mill.convert import to_json
from mill.model import Draft

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def template(name: str, draft: Draft) -> str:
    """``[task.NAME]`` with what the draft says, its `env` and `labels` as tables below it."""
    said = {key: value for key, value in to_json(draft).items() if value is not None}
    below = {key: said.pop(key) for key in ("env", "labels") if said.get(key)}
    lines = [f"[task.{_key(name)}]", *_pairs(said)]
    for key, value in below.items():
        lines += [f"[task.{_key(name)}.{key}]", *_pairs(value)]
    return "\n".join(lines)


def _pairs(values: Mapping[str, Any]) -> list[str]:
    return [f"{_key(key)} = {_value(value)}" for key, value in values.items()]


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _value(key)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        pairs = (f"{_key(key)} = {_value(item)}" for key, item in value.items() if item is not None)
        return f"{{ {', '.join(pairs)} }}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_value(item) for item in value)}]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace(
            "\x7f", "\\u007f"
        )  # TOML v1.0: JSON's strings, no DEL
    return json.dumps(value)
