"""What changed between two JSON documents: keys that are other, lists that grew at their end."""

from __future__ import annotations

from typing import Any

__all__ = ["difference", "patched"]

SAME: dict[str, Any] = {}


def difference(old: Any, new: Any) -> dict[str, Any]:
    """The patch that makes `new` of `old`; lists that only grew are told by what was added.

    Numbers that are equal count as the same, whatever their types: compare what `patched` gives
    where that matters.

    Example:
        >>> difference({"a": [1, 2], "b": 1}, {"a": [1, 2, 3], "b": 1})
        {'keys': {'a': {'more': [3]}}}
        >>> difference([1], [1]), difference([1], [2])
        ({}, {'new': [2]})
    """
    if isinstance(old, dict) and isinstance(new, dict) and old.keys() <= new.keys():
        parts = {
            key: difference(old[key], value) if key in old else {"new": value}
            for key, value in new.items()
        }
        changed = {key: part for key, part in parts.items() if part}
        return {"keys": changed} if changed else SAME
    if isinstance(old, list) and isinstance(new, list) and len(new) >= len(old):
        if new[: len(old)] == old:
            return {"more": new[len(old) :]} if len(new) > len(old) else SAME
        if len(new) == len(old) and all(isinstance(one, dict) for one in old):
            places = {str(at): difference(old[at], value) for at, value in enumerate(new)}
            return {"places": {at: part for at, part in places.items() if part}}
    return SAME if type(old) is type(new) and old == new else {"new": new}


def patched(old: Any, patch: dict[str, Any]) -> Any:
    """What `difference` was told of; `old` stays as it is.

    Raises:
        KeyError, IndexError, TypeError, ValueError: the patch is not of this document.

    Example:
        >>> patched({"a": [1, 2], "b": 1}, {"keys": {"a": {"more": [3]}}})
        {'a': [1, 2, 3], 'b': 1}
    """
    if "new" in patch:
        return patch["new"]
    if "keys" in patch:
        return {**old} | {
            key: patched(old.get(key), part) for key, part in patch["keys"].items()
        }  # fmt: skip
    if "more" in patch:
        return [*old, *patch["more"]]
    if "places" in patch:
        parts = {int(at): part for at, part in patch["places"].items()}
        return [patched(one, parts[at]) if at in parts else one for at, one in enumerate(old)]
    return old
