"""Read a command line: the verb, the recipe, and the flags with the config that they set."""

import ast
import contextlib
import difflib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict, FrozenConfigDict

from resnet_flax.config.checks import CHOICES, TYPES, complete, normalized_like, raise_errors, set_fields
from resnet_flax.config.defaults import field_types, flatten, get_config
from resnet_flax.config.identify import training_fields
from resnet_flax.config.recipes import default_run_name, find_recipe, load_recipe
from resnet_flax.config.stored import differences
from resnet_flax.config.suggestions import CHOOSE_DEVICE, DEVICES, fields_called, fields_like, unknown_field
from resnet_flax.errors import UserError, lookup, refuse_address
from resnet_flax.files import user_path
from resnet_flax.models.weight_files import READERS
from resnet_flax.text import escape_line, first_few, short_repr
from resnet_flax.verbs import VERBS, Flag
from resnet_flax.workdir.folder import Job
from resnet_flax.workdir.trained import PRETRAINED, display_name, find_trained, pretrained_names, read_trained_config

FLAGS: dict[str, Flag] = {name: flag for verb in VERBS.values() for name, flag in verb.flags.items()}
BOOLEANS = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}


class Values(NamedTuple):
    """The values that flags set: in the config, and of a verb's own flags."""

    config: ConfigDict
    own: dict[str, Any]


def parse(argv: Sequence[str]) -> tuple[str, list[Job], dict[str, Any]]:
    """Return (verb, jobs, the verb's own arguments) for a command line. Raises UserError for a mistake in it."""
    argv = canonical(argv)
    name, *words = [word for word in argv if not word.startswith("--")] or ["train"]
    verb = lookup("verb", name, VERBS)
    if verb.standalone:
        if len(argv) > 1:
            raise UserError(f"{name} takes no flags and no arguments: what is {short_repr(argv[argv[0] == name])}?")
        return name, [], {}
    if words and not verb.words:
        raise UserError(f"{name} takes flags only: what is {short_repr(words[0])}?")
    check_flags(name, argv)
    if verb.words == "fields":
        check_swept(argv)
    recipe = (flag_values(argv, "--config") or [""])[-1]
    jobs: list[Job] = []
    options: dict[str, Any] = {}
    if "watch" in verb.flags and (own := read_flags(argv, verb.flags, get_config()).own)["watch"]:
        # Runs that may not have begun, or folders of several runs.
        if recipe:
            find_recipe(recipe.partition(":")[0])  # or raise UserError
        default = f"runs/{default_run_name(recipe)}" if recipe else "runs"
        folders = unique_paths(map(read_workdir, named_workdirs(name, argv, words) or [default]))
        return name, [Job(FrozenConfigDict(), folder) for folder in folders], own
    for workdir in find_workdirs(name, recipe, argv, words):
        config = read_trained_config(workdir) if verb.trained or not recipe else load_recipe(recipe)
        config, options = read_flags(argv, verb.flags, config)
        jobs.append(Job(complete(config), workdir))
        if verb.trained:
            check_network(jobs[-1])
            if recipe and named_workdirs(name, argv, words):
                check_recipe(recipe, argv, jobs[-1])
    if verb.words in ("files", "fields"):
        options[verb.words] = words
    for word in words if verb.words == "files" else ():
        refuse_address("an image", word)
    if verb.words == "fields":
        options["recipe"] = [word for word in argv if word.startswith(("--config=", "--config."))]
    return name, jobs, options


def find_workdirs(verb: str, recipe: str, argv: Sequence[str], words: Sequence[str]) -> list[Path]:
    """Return the workdirs that a command line names, or else the default one of its recipe.

    For verbs on trained networks they may be weights (see find_trained); `predict` has a default.
    """
    texts = named_workdirs(verb, argv, words)
    if len(texts) > 1 and VERBS[verb].words != "workdirs":
        raise UserError(f"{verb} takes one --workdir, not {len(texts)}")
    if not recipe and (not texts or VERBS[verb].words == "fields"):
        if verb == "predict":
            return [find_trained(f"{PRETRAINED}{pretrained_names()[0]}")]
        if VERBS[verb].trained:
            raise UserError("which run? Give --workdir=PATH")
        raise UserError("which recipe? Give --config=RECIPE, such as --config=quickstart; the command `list` shows all")
    read = read_trained if VERBS[verb].trained == "network" else read_workdir
    return unique_paths(map(read, texts or [f"runs/{default_run_name(recipe)}"]))


def unique_paths(paths: Iterable[Path]) -> list[Path]:
    """Return paths in their order, keeping only the first of several for the same file or folder."""
    found: dict[Path, Path] = {}
    for path in paths:
        found.setdefault(path.resolve(), path)
    return list(found.values())


def named_workdirs(verb: str, argv: Sequence[str], words: Sequence[str]) -> list[str]:
    return [*flag_values(argv, "--workdir"), *(words if VERBS[verb].words == "workdirs" else [])]


def canonical(argv: Sequence[str]) -> list[str]:
    """Return a command line with every flag as --NAME=VALUE, however it was written.

    The other ways are --NAME VALUE and -NAME=VALUE, and for a switch --NAME and --noNAME. Raises UserError for an
    unknown flag and for a missing value.
    """
    words, rest = [], list(argv)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            words.append(word)
            continue
        name, equals, value = word.lstrip("-").partition("=")
        if name.startswith("no") and is_switch(name[2:]):
            if equals:
                raise UserError(f"--{name} takes no value: it sets {name[2:]} to False")
            name, value = name[2:], "false"
        elif not is_flag(name):
            following = rest[0] if rest and not equals and not rest[0].startswith("-") else "VALUE"
            verb = next((word for word in argv if word in VERBS), "train")
            raise UserError(unknown_flag(verb, name, value or following))
        elif not equals and is_switch(name):
            value = rest.pop(0) if rest and rest[0].lower() in ("true", "false") else "true"
        elif not equals:
            if not rest or rest[0].startswith("--"):
                raise UserError(f"--{name} needs a value: --{name}=VALUE")
            value = rest.pop(0)
        words.append(f"--{name}={value}")
    return words


def is_flag(name: str) -> bool:
    return name in ("config", "workdir") or flag_type(name) is not None


def is_switch(name: str) -> bool:
    return flag_type(name) is bool


def flag_type(name: str) -> type | None:
    """Return the type of the value of a verb's own flag, or of config.FIELD; None for any other name."""
    if name in FLAGS:
        return type(FLAGS[name].default)
    return field_types().get(name.removeprefix("config."), (None,))[0] if name.startswith("config.") else None


def unknown_flag(verb: str, name: str, value: str) -> str:
    """Return the message for an unknown flag, with what it could mean, or else with all flags of the verb."""
    if is_switch(name.removeprefix("no-")):
        return f"there is no flag --{name}: did you mean --no{name.removeprefix('no-')}?"
    last = name.rpartition(".")[2]
    flags = ["config", "workdir", *VERBS[verb].flags]
    if name.startswith("config.") and last not in flags:
        return unknown_field(name.removeprefix("config."))
    near = difflib.get_close_matches(last[:100], flags, n=1, cutoff=0.6)
    fields = fields_called(last) or ([] if near else fields_like(last))
    flags_like = [f"config.{field}" for field in fields] or near
    guesses = [f"--{flag}" if is_switch(flag) else f"--{flag}={value}" for flag in flags_like]
    if last in DEVICES:
        hint = CHOOSE_DEVICE
    elif guesses:
        hint = f"did you mean {' or '.join(guesses)}?"
    else:
        hint = f"the choices are: {', '.join(f'--{flag}' for flag in flags)}"
    return escape_line(f"there is no flag --{name}: {hint}", 300)


def check_flags(verb: str, argv: Sequence[str]) -> None:
    """Raise UserError for a flag that only other verbs have."""
    for word in argv:
        name = word.removeprefix("--").partition("=")[0]
        if word.startswith("--") and name in FLAGS and name not in VERBS[verb].flags:
            others = [other for other in VERBS if name in VERBS[other].flags]
            raise UserError(f"{verb} has no flag --{name}, only {', '.join(others)}")


def check_network(job: Job) -> None:
    """Raise UserError if flags have changed a trained network itself, rather than its data or how it is computed."""
    stored = complete(read_trained_config(job.workdir))
    if changes := differences(network_fields(stored), network_fields(job.config)):
        why = "; ".join(first_few([*changes.values()], 3))
        raise UserError(f"{display_name(job.workdir)} was trained with another config ({why}): leave out these flags")


def network_fields(config: FrozenConfigDict) -> dict[str, Any]:
    """Return the fields of a complete config that are part of the trained network: its data may differ."""
    return {
        field: value
        for field, value in training_fields(config).items()
        if field == "data.policy" or not field.startswith(("data.", "model.compute_dtype"))
    }


def check_recipe(recipe: str, argv: Sequence[str], job: Job) -> None:
    """Raise UserError unless a trained network is that of `recipe` with the fields that a command line sets."""
    asked = read_flags(argv, {}, load_recipe(recipe)).config
    asked.data.dir = job.config.data.dir
    theirs = training_fields(normalized_like(complete(asked), job.config))
    if changes := differences(theirs, training_fields(job.config)):
        why = "; ".join(first_few([*changes.values()], 3))
        raise UserError(f"{escape_line(job.workdir)} is not a run of {recipe} ({why}): leave out --config")


def check_swept(argv: Sequence[str]) -> None:
    """Raise UserError for several values, or a range, of a field whose flag takes only one."""
    for word in argv:
        name, _, text = word.removeprefix("--config.").partition("=")
        one = flag_type(f"config.{name}") in (bool, int, float) or name in CHOICES
        if word.startswith("--config.") and one and ("," in text or ".." in text):
            raise UserError(f"--config.{name} takes one value: to sweep over several, write {name}={text}")


def read_workdir(text: str, name: str = "--workdir") -> Path:
    """Return the path of a workdir, which messages call `name`. Raises UserError for one that cannot be a folder."""
    check_path(text, name)
    path = user_path(text)
    if path.exists() and not path.is_dir():
        raise UserError(f"{escape_line(path)} is not a folder, so it cannot be a workdir: choose another {name}")
    return path


def read_trained(text: str) -> Path:
    """Return the workdir or file of weights that `text` names, see find_trained. Raises UserError if it names none."""
    check_path(text, "--workdir")
    path = find_trained(text)
    return path if path.is_file() and path.suffix.lower() in READERS else read_workdir(text)


def check_path(text: str, name: str) -> None:
    refuse_address(name, text)
    if not text or "\0" in text or not is_utf8(text):
        raise UserError(f"{name} must be a path{' in UTF-8' * bool(text)}, not {short_repr(text)}")


def is_utf8(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # bytes that are not UTF-8, which Python keeps as surrogates
        return False
    return True


def flag_values(argv: Sequence[str], flag: str) -> list[str]:
    """Return every value that a canonical command line has for a flag."""
    return [word.removeprefix(f"{flag}=") for word in argv if word.startswith(f"{flag}=")]


def read_flags(argv: Sequence[str], own: Mapping[str, Flag], config: ConfigDict) -> Values:
    """Set in `config` what a command line sets there, and return it with the values of a verb's `own` flags.

    Raises UserError with a line for each value of the wrong type.
    """
    pairs = [word.removeprefix("--").split("=", 1) for word in canonical(argv) if word.startswith("--")]
    texts = {f"config.{own[name].field}" if name in own and own[name].field else name: text for name, text in pairs}
    values: dict[str, Any] = {}
    errors = []
    for name, text in texts.items():
        if kind := flag_type(name):
            try:
                values[name] = parse_names(text) if name in FIELDS_OF_NAMES else PARSERS[kind](text)
            except ValueError:
                flag = name if name.startswith("config.") else f"--{name}"
                errors.append(f"{flag} must be {TYPES[kind]}, not {short_repr(text)}")
    raise_errors(errors)
    for name, one in own.items():
        if one.value == "PATH" and name in values:
            refuse_address(f"--{name}", values[name])
            values[name] = os.path.expanduser(values[name])  # a shell leaves the ~ in --output=~/x
    fields = {name.removeprefix("config."): value for name, value in values.items() if name.startswith("config.")}
    present = flatten(config.to_dict())  # a recipe may have deleted some, which `complete` reports
    set_fields(config, {field: value for field, value in fields.items() if field in present})
    return Values(config, {name: values.get(name, flag.default) for name, flag in own.items() if not flag.field})


def parse_bool(text: str) -> bool:
    if text.lower() not in BOOLEANS:
        raise ValueError
    return BOOLEANS[text.lower()]


def parse_tuple(text: str) -> tuple:
    """Return the tuple that (1,2,3), 1,2,3, 1, cat,dog or an empty text stands for."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return parse_names(text)
    except (MemoryError, RecursionError, TypeError):  # nested too deep, or a set of lists
        raise ValueError from None
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def parse_names(text: str) -> tuple[str, ...]:
    """Return the names in cat,dog, ("cat","dog") or an empty text; they may look like numbers."""
    with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        value = ast.literal_eval(text)
        if isinstance(value, tuple | list) and all(isinstance(one, str) for one in value):
            return tuple(value)
    bare = text.strip()
    if bare[:1] + bare[-1:] in ("()", "[]"):
        bare = bare[1:-1]
    return tuple(name.strip().strip("'\"") for name in bare.split(",")) if bare.strip() else ()


FIELDS_OF_NAMES = ("config.data.classes", "config.train.freeze")
PARSERS: dict[type, Callable[[str], Any]] = {
    bool: parse_bool,
    int: int,
    float: float,
    str: str,
    tuple: parse_tuple,
}
