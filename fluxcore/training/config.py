"""Configurations: keyword-only dataclasses that YAML files and `key=value` overrides fill in."""

import dataclasses
import difflib
import re
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar, get_args, get_type_hints

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

C = TypeVar("C", bound="ConfigFile")


class ConfigError(ValueError):
    """A key that does not exist, a value of the wrong type or range, or a key without a value."""


class ConfigFile:
    """Gives a configuration dataclass `from_yaml` and `to_yaml`.

    The dataclass checks itself in `__post_init__`. Choices are enums whose members have lower-case names, since a
    name is what YAML and the command line spell.
    """

    __slots__ = ()
    name: ClassVar[str]
    """Of the trainer, of its folder under `outputs/`, and of the schema `NAME_schema` that YAML files cite."""

    @classmethod
    def from_yaml(cls, path: str | Path) -> Self:
        """Read a configuration; keys that the file leaves out keep their defaults.

        Args:
            path: A `.yaml` file; its `defaults:` list, where there is one, is followed.
        Raises:
            FileNotFoundError: `path` does not exist.
            ConfigError: a wrong key or value; the message names it.
        """
        path = Path(path).resolve()
        if not path.is_file():
            raise FileNotFoundError(2, "No such file or directory", str(path))
        if path.suffix != ".yaml":
            raise ConfigError(f"`path` must end in .yaml, got {path}\n\nRename the file.")
        register(cls)
        try:
            with initialize_config_dir(str(path.parent), version_base="1.3"):
                return build(cls, compose(path.stem))
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigError(f"{explain(error, cls)}\n\nThe file is {path}.") from error

    def coerce(self) -> None:
        """Turn text into the enums and paths that the keys are declared as, for configurations made in Python."""
        hints = get_type_hints(type(self))
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            declared, value = hints[field.name], getattr(self, field.name)
            for kind in (declared, *get_args(declared)):
                if not (isinstance(kind, type) and issubclass(kind, Enum | Path)) or value is None:
                    continue
                try:
                    value = [kind(item) for item in value] if isinstance(value, list) else kind(value)
                except ValueError as error:
                    known = ", ".join(each.name for each in kind) if issubclass(kind, Enum) else kind.__name__
                    raise ValueError(f"`{field.name}` must be one of {known}, got {value!r}") from error
            setattr(self, field.name, value)

    def to_dict(self) -> dict[str, Any]:
        """The configuration as plain values: str, int, float, bool, None, list and dict."""
        return {field.name: plain(getattr(self, field.name)) for field in dataclasses.fields(self)}  # type: ignore[arg-type]

    def to_yaml(self, path: str | Path) -> None:
        """Write every key, so that `from_yaml` gives an equal configuration back."""
        Path(path).write_text(OmegaConf.to_yaml(OmegaConf.create(self.to_dict())), encoding="utf-8")


def plain(value: Any) -> Any:
    """Enums by name, paths as text, nested dataclasses as dicts."""
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, Path):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def register(config_type: type[ConfigFile]) -> None:
    """Make the dataclass known to Hydra as `NAME_schema`."""
    ConfigStore.instance().store(name=f"{config_type.name}_schema", node=config_type)


def build(config_type: type[C], values: DictConfig) -> C:
    """Merge values into the dataclass, which checks types, and construct it, which checks ranges."""
    # As plain values, so that keys added with `+` meet the schema too.
    merged = OmegaConf.merge(OmegaConf.structured(config_type), OmegaConf.to_container(values, resolve=True))
    config = OmegaConf.to_object(merged)
    assert isinstance(config, config_type)
    return config


def explain(error: BaseException, config_type: type) -> str:
    """Say in our own words what Hydra or OmegaConf found wrong with a key or its value."""
    deepest: BaseException = error
    while deepest.__cause__ is not None:
        deepest = deepest.__cause__
    text = str(deepest)
    found = re.search(r"full_key: (\S+)", text)
    key = found.group(1) if found else ""
    if re.search(r"Key '.*' (not in|is not in struct)", text):
        return unknown_key(key, config_type)
    if "missing mandatory value" in text:
        return f"`{key}` must be given, and was not\n\nAdd {key}=VALUE."
    reason = text.split("\n    full_key")[0].split("raised while composing config:\n")[-1]
    if key:
        return f"`{key}`: {reason[:1].lower()}{reason[1:]}"
    return f"{reason[:1].lower()}{reason[1:]}"


def unknown_key(key: str, config_type: type) -> str:
    """Name a key that does not exist, and the nearest that does."""
    known = keys_of(config_type)
    nearest = difflib.get_close_matches(key, [name for name in known if name.count(".") == key.count(".")], n=1)
    head = key.split(".")[0]
    if not nearest and head != key and head in known:
        return f"`{key}` is not there yet\n\nTo add to `{head}`, write +{key}=VALUE."
    way_out = f"Did you mean `{nearest[0]}`?" if nearest else f"Keys are: {', '.join(sorted(known))}."
    return f"`{key}` is not a key of this configuration\n\n{way_out}"


def keys_of(config_type: type, prefix: str = "") -> list[str]:
    """All keys, those of nested dataclasses with their path."""
    keys = []
    for field in dataclasses.fields(config_type):
        keys.append(prefix + field.name)
        if isinstance(field.type, type) and dataclasses.is_dataclass(field.type):
            keys += keys_of(field.type, f"{prefix}{field.name}.")
    return keys
