"""Whether what was read is of the kind that it should be: a type as those in training.schema."""

import types
from typing import Any, Union, get_args, get_origin

from typing_extensions import get_type_hints, is_typeddict


def fault(value: Any, kind: Any, name: str = "") -> str | None:
    """What is wrong with a value that was read and should be of a kind (a type as above), in words; None if nothing."""
    if is_typeddict(kind):
        if not isinstance(value, dict):
            return f"its {name} is damaged"
        if missing := [key for key in get_type_hints(kind) if key in kind.__required_keys__ - value.keys()]:
            return f"it lacks {', '.join(missing)}"
        hints = {key: hint for key, hint in get_type_hints(kind).items() if key in value}
        return next((wrong for key, hint in hints.items() if (wrong := fault(value[key], hint, key))), None)
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        wrongs = [fault(value, part, name) for part in parts]
        return None if None in wrongs else wrongs[0]
    if origin is list and isinstance(value, list):
        return next((wrong for item in value if (wrong := fault(item, parts[0], name))), None)
    if origin is dict and isinstance(value, dict):
        return next((wrong for item in value.values() if (wrong := fault(item, parts[1], name))), None)
    wanted = {float: (int, float)}.get(kind, origin or kind)
    whole = kind is Any or (isinstance(value, wanted) and (kind is bool or not isinstance(value, bool)))
    return None if whole else f"its {name} is damaged"
