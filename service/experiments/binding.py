"""Binds an experiment to versions of the store when it first starts, and keeps it bound afterwards."""

import json
from typing import Any

from model_store.errors import StoreError
from model_store.store import ModelStore
from service.experiments.spec import ExperimentSpec
from service.experiments.state import State
from slimctr.errors import ConfigError

# What may change under one key while its data is collected; all else makes old and new rows incomparable.
_CHANGEABLE = {"coverage", "shadow"}


def bind(spec: ExperimentSpec, state: State, store: ModelStore) -> dict[str, int]:
    """Return the version of every variant by name: those of the first start under this key, else as the file says now.

    A label is looked up once, at the first start of the experiment; moving it later does not change the test.
    Raises ConfigError when the key has run with other variants, seed or windows, when a version does not exist,
    or when two versions were trained on different features or vocabularies.
    """
    frozen = _frozen(spec)
    kept = json.loads(state.register(spec.key, definition(spec, _resolve(spec, store))))
    if kept["spec"] != frozen:
        names = ", ".join(sorted(name for name in frozen if frozen[name] != kept["spec"].get(name)))
        raise ConfigError(
            f"experiment '{spec.key}' has already run with another value of: {names}. "
            "Its data would be mixed; give the changed experiment another key"
        )
    versions: dict[str, int] = kept["versions"]
    _check_comparable(spec, versions, store)
    return versions


def definition(spec: ExperimentSpec, versions: dict[str, int]) -> str:
    """Return what the state keeps of an experiment: what must not change under its key, and the bound versions."""
    return json.dumps({"spec": _frozen(spec), "versions": versions})


def _frozen(spec: ExperimentSpec) -> dict[str, Any]:
    return spec.model_dump(mode="json", exclude=_CHANGEABLE)


def _resolve(spec: ExperimentSpec, store: ModelStore) -> dict[str, int]:
    versions = {}
    for variant in spec.variants:
        try:
            _, versions[variant.name] = store.resolve(f"{spec.model}@{variant.version}")
        except StoreError as error:
            raise ConfigError(f"experiment '{spec.key}': variant '{variant.name}': {error}") from error
    return versions


def _check_comparable(spec: ExperimentSpec, versions: dict[str, int], store: ModelStore) -> None:
    values: dict[str, Any] = {}
    for name, version in versions.items():
        try:
            manifest = store.manifest(spec.model, version)
            values[name] = manifest.base_vocabulary, manifest.features
        except StoreError as error:
            raise ConfigError(f"experiment '{spec.key}': variant '{name}': {error}") from error
    for name, known in values.items():
        if known != values[spec.default]:
            raise ConfigError(
                f"experiment '{spec.key}': '{name}' (version {versions[name]}) and '{spec.default}' (version "
                f"{versions[spec.default]}) encode features differently; compare versions of one training vocabulary"
            )


def encode_alike(spec: ExperimentSpec, versions: dict[str, int], store: ModelStore) -> bool:
    """Say whether all variants read a value as the same row: not when one of them has dropped rows of its tables."""
    return len({store.manifest(spec.model, version).encoder for version in versions.values()}) == 1
