"""Turns what Hydra, OmegaConf and YAML complain about into one sentence.

Reads their messages where they carry no data (hydra-core 1.3, omegaconf 2.3); a message that is
not known here is passed on in one line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import yaml
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from aes.cli.errors import nearest, nearest_key, one_line
from aes.cli.source import Source

_KEY_PATTERNS = {
    r"Multiple values for (\S+)\.": "{0} is chosen already; choose it once, without +",
    r"force-add of config groups is not supported: '\++(.+?)'": "choose a group without +, as {0}",
    r"Could not append to config\. An item is already at '(.+?)'": (
        "{0} exists already; leave out the +"
    ),
    r"Could not delete from config\. '(.+?)' does not exist": (
        "{0} is not a setting, so it cannot be taken away; leave it out"
    ),
    r"Ambiguous value for argument '(.+?)' 1\.": (
        "{0} gives several values; add -m to run one after the other, or write a list as key=[a,b]"
    ),
    r"Sweep parameters '(.+)' requires --multirun": (
        "{0} gives several values; add -m to run one after the other"
    ),
}

_EXTRAS = {"optuna": "optuna", "submitit": "submitit"}
"""How the names of options begin that are plugins of Hydra, and the extra that brings them."""


@contextmanager
def errors_in_plain_words(source: Source) -> Iterator[None]:
    """Raises what the libraries complain about as a ValueError of one sentence.

    Raises:
        ValueError: Instead of their exceptions.
    """
    try:
        yield
    except OverrideParseException as error:
        raise ValueError(_unreadable(error.override)) from error
    except MissingConfigException as error:
        raise ValueError(_missing_config(error)) from error
    except yaml.MarkedYAMLError as error:
        raise ValueError(_broken_yaml(error)) from error
    except OmegaConfBaseException as error:
        raise ValueError(_value(error)) from error
    except HydraException as error:
        raise ValueError(_composition(error, source)) from error
    except ValueError as error:
        # Hydra raises a bare one for group=3 and group=null.
        if str(error).startswith("Config group override must be"):
            raise ValueError(_group_without_name(source)) from error
        raise


def _unreadable(override: str) -> str:
    key, equals, _ = override.partition("=")
    if not key or not equals:
        return f"cannot read {override!r}: a setting is written key=value, without spaces"
    return (
        f"cannot read {override!r}: quote a value with special characters twice, as in "
        f"'{key}=\"value\"'"
    )


def _missing_config(error: MissingConfigException) -> str:
    group, _, option = (error.missing_cfg_file or "").rpartition("/")
    for name, extra in _EXTRAS.items():
        if option.startswith(name):
            needs = f"{group}={option} needs an extra that is not installed"
            return f"{needs}: pip install 'aes[{extra}]'"
    options = sorted(error.options or ())
    if group and options and not option:
        return f"{group}= does not name an option; choose one of {', '.join(options)}"
    if not error.missing_cfg_file:
        return one_line(str(error))
    if not group or not options:
        return f"conf/{error.missing_cfg_file}.yaml does not exist; correct the name"
    alike = nearest(option, options)
    if alike is None:
        return f"{group}={option} is not an option; choose one of {', '.join(options)}"
    return (
        f"{group}={option} is not an option; did you mean {group}={alike} "
        f"(the options are {', '.join(options)})?"
    )


def _broken_yaml(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark
    where = "a configuration file" if mark is None else f"{mark.name}, line {mark.line + 1}"
    return f"{where}: not valid YAML ({one_line(error.problem or '')}); correct the file"


def _value(error: OmegaConfBaseException) -> str:
    message = str(error).splitlines()[0].rstrip(".")
    key = error.full_key
    return f"{key}: {message}; correct its value" if key else f"{message}; correct it"


def _group_without_name(source: Source) -> str:
    for override in source.overrides:
        group = override.partition("=")[0]
        if group in source.groups:
            options = ", ".join(source.options(group))
            return f"{override} does not name an option; choose one of {options}"
    return _unreadable(next((o for o in source.overrides if o.startswith("=")), ""))


def _composition(error: HydraException, source: Source) -> str:
    message = one_line(str(error))
    unknown = re.match(r"Could not override '(.+?)'", message)
    if unknown is not None:
        return _no_such_key(unknown[1], source)
    for pattern, sentence in _KEY_PATTERNS.items():
        found = re.match(pattern, message)
        if found is not None:
            return sentence.format(found[1])
    if isinstance(error.__cause__, OmegaConfBaseException):
        return f"{message}: {_value(error.__cause__)}".removeprefix(": ")
    return message or "the configuration cannot be composed; correct conf/"


def _no_such_key(wrong: str, source: Source) -> str:
    group = wrong.partition(".")[0]
    keys, choices = source.names()
    if wrong in keys:
        return f"{wrong} has no such key; to add one, write +{wrong}.NAME=VALUE"
    chosen = choices.get(group)
    others = [
        f"{group}={option}"
        for option in (source.options(group) if chosen else [])
        if option != chosen and wrong in source.names(f"{group}={option}")[0]
    ]
    if others:
        return f"{wrong} is not a setting of {group}={chosen}; {' or '.join(others)} has it"
    of_hydra = group == "hydra"
    known = [k for k in keys if (k.partition(".")[0] == "hydra") == of_hydra]
    return no_such_key(wrong, known, command=source.config_name)


def no_such_key(wrong: str, known: list[str], *, command: str = "train") -> str:
    """The sentence about a key that does not exist beside those that do."""
    alike = nearest_key(wrong, known)
    hint = f"did you mean {alike}?" if alike else f"python {command}.py --cfg job shows all"
    return f"{wrong} is not a setting; {hint}"
