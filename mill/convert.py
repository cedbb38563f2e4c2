"""Values of `mill.model` to and from plain JSON data. A leaf, and the only module that knows cattrs.

Two directions of trust: *strict* for what users write (unknown keys and wrong types are a `FieldError` that names the
field's path), lenient for SQLite and other nodes (unknown keys are kept in `extra` and written back, so that an older
milld passes on what a newer one said).
"""

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from enum import Enum
from typing import Any, TypeVar, get_args, get_origin

import attrs
import cattrs
from cattrs.errors import (
    AttributeValidationNote,
    ClassValidationError,
    ForbiddenExtraKeysError,
    IterableValidationError,
    IterableValidationNote,
)
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override

from mill.errors import FieldError
from mill.model import Duration, Kept, MountType, Network, PullPolicy, Scope, Size, Time
from mill.units import parse_duration, parse_size

T = TypeVar("T")

_FIRST_SECOND = datetime(1, 1, 1, tzinfo=UTC).timestamp()
_LAST_SECOND = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp()


def format_time(time: float) -> str:
    """RFC 3339 in UTC to the millisecond: ``2026-01-02T03:04:05.678Z``."""
    return datetime.fromtimestamp(time, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_time(value: object) -> Time:
    """Unix seconds from RFC 3339 or a number, of the years that RFC 3339 can write."""
    time = math.nan
    if isinstance(value, int | float) and not isinstance(value, bool):
        time = float(value) if abs(value) <= _LAST_SECOND else math.nan
    elif isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            pass
        else:
            time = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if not _FIRST_SECOND <= time <= _LAST_SECOND:
        raise ValueError(f"{value!r} is not a time: write RFC 3339 such as 2026-01-02T03:04:05Z")
    return Time(time)


def _typed(kind: type, name: str) -> Callable[[object, object], Any]:
    def check(value: object, _: object) -> Any:
        if kind is int and isinstance(value, float) and value.is_integer():
            return int(value)  # JSON does not tell 1.0 from 1 (RFC 8259)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ValueError(f"must be {name}, not {_kind_of(value)}")
        return value

    return check


def _text(value: object, _: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"must be a string, not {_kind_of(value)}")  # noqa: TRY004 -- every bad value is a ValueError here
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("is not valid UTF-8 text") from None
    return value


def _number(value: object, _: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"must be a number, not {_kind_of(value)}")  # noqa: TRY004 -- as above
    try:
        return float(value)
    except OverflowError:
        raise ValueError("is far too large a number") from None


def _choice(value: object, kind: type[Enum]) -> Enum:
    for member in kind:
        if member.value == value:
            return member
    raise ValueError(f"{value!r} is not one of {', '.join(str(member.value) for member in kind)}")


def _kind_of(value: object) -> str:
    for kind, name in (
        (bool, "a boolean"),
        (str, "a string"),
        (int, "a number"),
        (float, "a decimal number"),
        (Mapping, "an object"),
    ):
        if isinstance(value, kind):
            return name
    return "null" if value is None else "a list" if isinstance(value, list | tuple) else "a date or time"


def _strict_object(converter: cattrs.Converter) -> Callable[[Any], Callable[[object, Any], Any]]:
    def factory(kind: Any) -> Callable[[object, Any], Any]:
        inner = make_dict_structure_fn(
            kind, converter, _cattrs_forbid_extra_keys=True, extra=override(omit=_is_kept(kind))
        )

        def structure(value: object, _: Any) -> Any:
            if not isinstance(value, Mapping):
                raise ValueError(f"must be an object, not {_kind_of(value)}")  # noqa: TRY004 -- as above
            return inner(value, kind)

        return structure

    return factory


def _strict_list(converter: cattrs.Converter) -> Callable[[Any], Callable[[object, Any], Any]]:
    def factory(kind: Any) -> Callable[[object, Any], Any]:
        item = get_args(kind)[0]

        def structure(value: object, _: Any) -> Any:
            if not isinstance(value, list | tuple):
                raise ValueError(f"must be a list, not {_kind_of(value)}")  # noqa: TRY004 -- as above
            note = lambda index: IterableValidationNote("", index, item)  # noqa: E731
            return tuple(_each(enumerate(value), lambda v: converter.structure(v, item), note))

        return structure

    return factory


def _strict_mapping(converter: cattrs.Converter) -> Callable[[Any], Callable[[object, Any], Any]]:
    def factory(kind: Any) -> Callable[[object, Any], Any]:
        item = get_args(kind)[1]

        def structure(value: object, _: Any) -> Any:
            if not isinstance(value, Mapping):
                raise ValueError(f"must be an object, not {_kind_of(value)}")  # noqa: TRY004 -- as above
            keys = list(value)
            note = lambda key: AttributeValidationNote("", key, item)  # noqa: E731
            values = _each(value.items(), lambda v: converter.structure(v, item), note)
            return dict(zip(keys, values, strict=True))

        return structure

    return factory


def _each(pairs: Any, structure: Callable[[Any], Any], note: Callable[[Any], str]) -> list[Any]:
    done = []
    for key, value in pairs:
        try:
            done.append(structure(value))
        except Exception as error:  # noqa: BLE001 -- whatever a hook raises gets the path where it happened
            error.add_note(note(key))
            raise IterableValidationError("", [error], object) from None
    return done


def _is_tuple(kind: Any) -> bool:
    return get_origin(kind) is tuple


def _is_mapping(kind: Any) -> bool:
    return isinstance(origin := get_origin(kind), type) and issubclass(origin, Mapping)


def _make(*, strict: bool) -> cattrs.Converter:
    converter = cattrs.Converter()
    converter.register_structure_hook(Time, lambda value, _: parse_time(value))
    converter.register_unstructure_hook(Time, format_time)
    converter.register_structure_hook_func(lambda kind: kind is object, lambda value, _: value)
    if strict:
        converter.register_structure_hook(Size, lambda value, _: Size(parse_size(value)))
        converter.register_structure_hook(Duration, lambda value, _: Duration(parse_duration(value)))
        converter.register_structure_hook(str, _text)
        converter.register_structure_hook(bool, _typed(bool, "true or false"))
        converter.register_structure_hook(int, _typed(int, "a whole number"))
        converter.register_structure_hook(float, _number)
        for choice in (Network, PullPolicy, MountType, Scope):
            converter.register_structure_hook(choice, _choice)
        converter.register_structure_hook_factory(attrs.has, _strict_object(converter))
        converter.register_structure_hook_factory(_is_tuple, _strict_list(converter))
        converter.register_structure_hook_factory(_is_mapping, _strict_mapping(converter))
    else:
        converter.register_structure_hook_factory(_is_kept, lambda kind: _keeping(kind, converter))
    converter.register_unstructure_hook_factory(_is_kept, lambda kind: _spreading(kind, converter))
    return converter


def _is_kept(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Kept)


def _known(kind: Any) -> frozenset[str]:
    return frozenset(attrs.fields_dict(kind)) - {"extra"}


def _keeping(kind: Any, converter: cattrs.Converter) -> Callable[[Any, Any], Any]:
    known = _known(kind)
    inner = make_dict_structure_fn(kind, converter)

    def structure(value: Any, _: Any) -> Any:
        if known.issuperset(value):
            return inner(value, kind)
        said = {key: value[key] for key in value if key in known}
        said["extra"] = {key: value[key] for key in value if key not in known}
        return inner(said, kind)

    return structure


def _spreading(kind: Any, converter: cattrs.Converter) -> Callable[[Any], dict[str, Any]]:
    inner = make_dict_unstructure_fn(kind, converter, extra=override(omit=True))

    def unstructure(value: Any) -> dict[str, Any]:
        data = inner(value)
        return {**value.extra, **data} if value.extra else data

    return unstructure


_STRICT = _make(strict=True)
_LENIENT = _make(strict=False)


def to_json(value: object) -> Any:
    """Plain data for `json.dumps`: enums as strings, times as RFC 3339, None kept as null."""
    return _LENIENT.unstructure(value)


def from_json(kind: type[T], data: object, *, strict: bool = False) -> T:
    """A *kind* out of plain data. Strict: raises `FieldError` with the path of the first field to blame."""
    if not strict:
        return _LENIENT.structure(data, kind)
    if not isinstance(data, Mapping):
        raise FieldError("", f"must be a JSON object, not {_kind_of(data)}")
    try:
        return _STRICT.structure(data, kind)
    except ClassValidationError as error:
        raise _first_fault(error, "") from None


def _first_fault(error: BaseException, path: str) -> FieldError:
    """The first leaf of cattrs' tree of errors, with the path that its notes spell."""
    if isinstance(error, ClassValidationError | IterableValidationError):
        inner = error.exceptions[0]
        return _first_fault(inner, path + _step(inner, bare=not path))
    if isinstance(error, ForbiddenExtraKeysError):
        key = min(error.extra_fields, key=str)
        known = ", ".join(sorted(_known(error.cl))) if attrs.has(error.cl) else ""
        return FieldError(f"{path}.{key}" if path else str(key), f"unknown field; known are: {known}")
    if isinstance(error, FieldError):
        return FieldError(".".join(part for part in (path, error.field) if part), error.message)
    if isinstance(error, KeyError):
        return FieldError(path, "is missing")
    return FieldError(path, str(error))


def _step(error: BaseException, *, bare: bool) -> str:
    for note in getattr(error, "__notes__", ()):
        if isinstance(note, IterableValidationNote):
            return f"[{note.index}]"
        if isinstance(note, AttributeValidationNote):
            return note.name if bare else f".{note.name}"
    return ""
