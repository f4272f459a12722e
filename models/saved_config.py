"""Configurations read from JSON: checked field by field against the dataclass that they fill.

Whatever is wrong with a file ends as one `UserError` that names the file and the key.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from models.errors import UserError

T = TypeVar("T")

LARGEST = 2**31 - 1
"""Greatest number that a configuration may hold."""


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        UserError: it is not one.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise UserError(f"{path} is not valid JSON: it is nested too deeply") from None
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {str(error).splitlines()[0][:200]}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold a JSON object, got {_shown(content)}")
    return content


def build_config(cls: type[T], saved: Any, where: str) -> T:
    """Build a configuration dataclass from what JSON holds.

    Args:
        where: file and part, for messages.

    Raises:
        UserError: a key is unknown, a value has another type than its field, or the dataclass refuses the values.
    """
    return _object(cls, saved, where, "")


@contextmanager
def building(where: str) -> Iterator[None]:
    """Turn what goes wrong while a network is built from a file's configuration into a `UserError`."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise UserError(f"{where}: no network has these sizes ({reason})") from error


def _object(cls: type[T], saved: Any, where: str, path: str) -> T:
    if not isinstance(saved, dict):
        raise UserError(f"{where}: {path or 'the entry'} must be an object, got {_shown(saved)}")
    types = get_type_hints(cls)
    names = [field.name for field in fields(cls) if field.init]  # pyright: ignore[reportArgumentType]
    values = {}
    for key, value in saved.items():
        inner = f"{path}.{key}" if path else key
        if key not in names:
            raise UserError(f"{where}: unknown key {inner!r}, expected some of {', '.join(names)}")
        values[key] = _value(types[key], value, where, inner)
    try:
        return cls(**values)
    except UserError as error:
        raise UserError(f"{where}: {path + ': ' if path else ''}{error}") from None
    except (TypeError, ValueError, ArithmeticError) as error:
        raise UserError(f"{where}: {path + ': ' if path else ''}these values do not fit ({error})") from None


def _value(kind: Any, value: Any, where: str, path: str) -> Any:
    """Bring a JSON value to a field's type."""
    if is_dataclass(kind):
        return _object(kind, value, where, path)  # pyright: ignore[reportArgumentType]
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        if value is None and NoneType in arguments:
            return None
        (kind,) = (argument for argument in arguments if argument is not NoneType)
        return _value(kind, value, where, path)
    if origin is tuple and isinstance(value, list):
        return tuple(_value(arguments[0], each, where, f"{path}[{index}]") for index, each in enumerate(value))
    if origin is Literal and isinstance(value, str) and value in arguments:
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and -LARGEST <= value <= LARGEST:
        if kind is int and isinstance(value, int):
            return value
        if kind is float:
            return float(value)
    if kind in (bool, str) and isinstance(value, kind):
        return value
    expected = f"one of {', '.join(map(str, arguments))}" if origin is Literal else _name(kind)
    raise UserError(f"{where}: {path} must be {expected}, got {_shown(value)}")


def _name(kind: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    return "a list" if get_origin(kind) is tuple else names.get(kind, str(kind))


def _shown(value: Any) -> str:
    shown = json.dumps(value)
    return shown if len(shown) <= 60 else shown[:60] + " ..."
