"""Configs and `repr`: the base of our schedules and callbacks."""

from __future__ import annotations

import inspect
import reprlib
from collections.abc import Mapping
from typing import Any, TypeVar

import keras

LearningRateSchedule = keras.optimizers.schedules.LearningRateSchedule
register = keras.saving.register_keras_serializable(package="keras_decay")


Made = TypeVar("Made")


class Configured:
    """An object that keeps each of its arguments in the attribute of the same name."""

    def get_config(self) -> dict[str, Any]:
        """The arguments as JSON values."""
        return {name: _to_json(value) for name, value in self._arguments().items()}

    @classmethod
    def from_config(cls: type[Made], config: dict[str, Any]) -> Made:
        """Makes the object from a config; an unknown key is a `TypeError`."""
        return cls(**{name: _from_json(value) for name, value in config.items()})

    def __repr__(self) -> str:
        """The call that makes the object, without the arguments that have their defaults."""
        parameters, shown = _parameters(self), []
        for name, value in self._arguments().items():
            default, kind = parameters[name].default, parameters[name].kind
            text = LISTS.repr(value) if isinstance(value, (list, tuple)) else repr(value)
            if default is inspect.Parameter.empty and kind is not inspect.Parameter.KEYWORD_ONLY:
                shown.append(text)
            # Always shown: it tells whether the schedule counts the epochs of `fit`.
            elif name == "steps_per_epoch" or value != default:
                shown.append(f"{name}={text}")
        return f"{type(self).__name__}({', '.join(shown)})"

    def _arguments(self) -> dict[str, Any]:
        own = vars(self)
        return {name: own[name] for name in _parameters(self) if name in own}


# A long table of rates is cut, so that `repr` stays one line.
LISTS = reprlib.Repr()
LISTS.maxlist = LISTS.maxtuple = 12
LISTS.maxother = LISTS.maxstring = 1000


def _parameters(made: Any) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(type(made).__init__).parameters


def _to_json(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_to_json(item) for item in value]
    return (
        keras.saving.serialize_keras_object(value)
        if isinstance(value, LearningRateSchedule)
        else value
    )


def _from_json(value: Any) -> Any:
    if isinstance(value, list):
        return [_from_json(item) for item in value]
    if isinstance(value, dict) and "class_name" in value:
        return keras.saving.deserialize_keras_object(value)
    return value
