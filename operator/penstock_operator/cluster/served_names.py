"""Which served names are asked for, and what to tell those that do not get theirs."""

from collections import defaultdict
from collections.abc import Iterable, Mapping

from penstock_contract.api import InferenceDeployment
from penstock_contract.served_names import Asked, asked, holders
from penstock_operator.cluster.cache import Key
from penstock_operator.manifests import Object


class ServedNames:
    """What each InferenceDeployment asked for when it was looked at last."""

    def __init__(self) -> None:
        self._asked: dict[Key, Asked] = {}
        self._by_name: dict[str, set[Key]] = defaultdict(set)

    def note(self, key: Key, raw: Object) -> set[Key]:
        """Take over what one asks for; return the others that ask for a name that this touches."""
        now = asked(raw)
        return set() if self._asked.get(key) == now else self._change(key, now)

    def forget(self, key: Key) -> set[Key]:
        """Take over that one is gone; return the others that ask for a name that it asked for."""
        return self._change(key, None)

    def lost(self, key: Key) -> dict[str, str]:
        """Return the names that one asks for and others have → `namespace/name` of these."""
        own = self._asked[key]
        if all(self._by_name[name] == {key} for name in own.all):
            return {}
        held = holders(self._asked.values())
        found = {name: held.get(name, own.deployment) for name in own.all}
        return {name: holder for name, holder in found.items() if holder != own.deployment}

    def _change(self, key: Key, now: Asked | None) -> set[Key]:
        before = self._asked.pop(key, None)
        touched = {name for one in (before, now) if one for name in one.all}
        rivals = {rival for name in touched for rival in self._by_name[name]} - {key}
        self._place(key, before.all if before else (), now.all if now else ())
        if now:
            self._asked[key] = now
        return rivals

    def _place(self, key: Key, before: Iterable[str], now: Iterable[str]) -> None:
        for name in before:
            self._by_name[name].discard(key)
            if not self._by_name[name]:
                del self._by_name[name]
        for name in now:
            self._by_name[name].add(key)


def is_nameless(deployment: InferenceDeployment, lost: Mapping[str, str]) -> bool:
    """Return whether no name is left for the model, so that no client reaches it."""
    return all(name in lost for name in (deployment.served_name, *deployment.spec.model.aliases))


def names_taken(deployment: InferenceDeployment, lost: Mapping[str, str]) -> str:
    """Return in words which names are taken, by whom, and what to do; nothing when none is."""
    model = deployment.spec.model
    fields = {deployment.served_name: "spec.model.name"}
    fields |= {name: f"spec.model.aliases[{i}]" for i, name in enumerate(model.aliases)}
    fields |= {a.name: f"spec.model.adapters[{i}].name" for i, a in enumerate(model.adapters)}
    told = [
        f"{field}: {name!r} is served for {lost[name]}, which is older"
        for name, field in fields.items()
        if name in lost
    ]
    return f"{'; '.join(told)}; choose another name" if told else ""
