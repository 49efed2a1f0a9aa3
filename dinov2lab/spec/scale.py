"""A study at another scale: what the profile of its file that `--set profile=NAME` names puts in place of its own keys."""

from dataclasses import replace

from dinov2lab.spec.document import Item, SpecError
from dinov2lab.spec.nearest import did_you_mean

OWN = "cpu"  # the profile that a file without any is written for


def at_scale(tree: Item, wanted: Item | None) -> Item:
    """The study's `tree` without its profiles, with the keys of the `wanted` one in it. Raises SpecError."""
    assert isinstance(tree.value, dict)
    own = {key: item for key, item in tree.value.items() if key != "profiles"}
    known = _entries(tree.value["profiles"], "profiles") if "profiles" in tree.value else {}
    profiles = {OWN: Item({}, tree.where, tree.folder), **known}
    if wanted is None:
        return replace(tree, value=own)
    if wanted.value not in profiles:
        near = did_you_mean(str(wanted.value), list(profiles)) or f"; there are {', '.join(profiles)}"
        raise SpecError(f"{wanted.where}: no such profile{near if len(profiles) > 1 else f'; it has {OWN} alone'}")
    return replace(tree, value=own | _entries(profiles[str(wanted.value)], f"profiles.{wanted.value}"))


def _entries(item: Item, name: str) -> dict[str, Item]:
    if not isinstance(item.value, dict):
        raise SpecError(f"{item.where}: {name}: is no mapping of keys to values")
    return item.value
