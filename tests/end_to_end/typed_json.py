"""Checks JSON against classes whose constructors are annotated: names and types, all the way down.

Grafana publishes its dashboards' schema as such classes (grafana-foundation-sdk), made from the
schema that its own code is made from.
"""
import enum
import inspect
import re
import types
import typing


def complaints(value, wanted, path="$"):
    """What in `value` the type `wanted` does not have, as lines."""
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (typing.Union, types.UnionType):
        found = [list(complaints(value, one, path)) for one in arguments]
        if all(found):
            # Those of the member that comes nearest.
            yield from min(found, key=len)
    elif wanted in (typing.Any, object, inspect.Parameter.empty) or isinstance(wanted, typing.TypeVar):
        return
    elif origin is typing.Literal:
        if value not in arguments:
            yield f"{path}: wanted one of {arguments}, got {value!r}"
    elif origin in (list, typing.List):
        if not isinstance(value, list):
            yield f"{path}: wanted a list, got {value!r}"
            return
        for i, item in enumerate(value):
            yield from complaints(item, arguments[0], f"{path}[{i}]")
    elif origin in (dict, typing.Dict):
        if not isinstance(value, dict):
            yield f"{path}: wanted an object, got {value!r}"
            return
        for key, item in value.items():
            yield from complaints(item, arguments[1], f"{path}.{key}")
    elif wanted is None or wanted is type(None):
        if value is not None:
            yield f"{path}: wanted null, got {value!r}"
    elif inspect.isclass(wanted) and issubclass(wanted, enum.Enum):
        if value not in [member.value for member in wanted]:
            yield f"{path}: wanted one of {[m.value for m in wanted]}, got {value!r}"
    elif wanted in (int, float, str, bool):
        kinds = {float: (int, float)}.get(wanted, (wanted,))
        if not isinstance(value, kinds) or (isinstance(value, bool) and wanted is not bool):
            yield f"{path}: wanted {wanted.__name__}, got {value!r}"
    elif hasattr(wanted, "to_json"):
        yield from of_class(value, wanted, path)
    # else: a mere interface, such as that of any plugin's query


def of_class(value, wanted, path):
    if not isinstance(value, dict):
        yield f"{path}: wanted {wanted.__name__}, got {value!r}"
        return
    # The classes' fields are in snake case, their JSON names in to_json.
    names = json_names(wanted)
    hints = typing.get_type_hints(wanted.__init__)
    for key, item in value.items():
        if key not in names:
            yield f"{path}: {wanted.__name__} has no {key}"
        else:
            yield from complaints(item, hints.get(names[key], typing.Any), f"{path}.{key}")


def json_names(wanted):
    """{JSON name: attribute}, as the class' to_json writes them."""
    source = inspect.getsource(wanted.to_json)
    return dict(re.findall(r'"([^"]+)"\s*(?:\]\s*=|:)\s*self\.(\w+)', source))
