"""The plan of a sweep: the fields of the config that it varies, each with its values or its range."""

import hashlib
import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ml_collections import ConfigDict, FrozenConfigDict

from resnet_flax.command_line import flag_values, read_flags
from resnet_flax.config.checks import complete
from resnet_flax.config.defaults import changed, field_types, flatten, get_config
from resnet_flax.config.recipes import load_recipe
from resnet_flax.config.stored import config_to_json
from resnet_flax.errors import UserError

Settings = dict[str, str]  # field -> its value, as one would type it

# Fields that say how trials are judged, which must be the same for all.
SAME_FOR_ALL = ("data.name", "data.dir", "data.validation", "data.test", "train.monitor")
MAX_COMBINATIONS = 10_000  # combinations of values
LAST_PARTS = Counter(name.rpartition(".")[2] for name in field_types())
RANGE = re.compile(r"([^/]+?)\.\.([^/]+?)(:log)?")  # but ../runs/a is a path
EXAMPLE = "such as optimizer.learning_rate=0.01,0.03,0.1 or optimizer.learning_rate=1e-3..1:log"


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`, integers if both are, uniform in the number or in its logarithm."""

    low: float
    high: float
    log: bool


Field = tuple[str, ...] | Range  # the values as they were typed, or a range


@dataclass(frozen=True)
class Space:
    """The values or range of each field to vary; `recipe` is the part of the command line that sets the config."""

    recipe: tuple[str, ...]
    fields: Mapping[str, Field]

    @classmethod
    def read(cls, words: Sequence[str], recipe: Sequence[str]) -> "Space":
        """Parse words such as "optimizer.momentum=0.8,0.9": a field and its values, or LOW..HIGH[:log].

        Raises UserError for a field that does not exist or may not vary, and for a value of the wrong type.
        """
        if not words:
            raise UserError(f"what should be swept? Name fields and their values, {EXAMPLE}")
        base = flatten(complete(recipe_config(recipe)).to_dict())
        fields: dict[str, Field] = {}
        for word in words:
            name, _, text = word.partition("=")
            values = split_values(text)
            if not text:
                raise UserError(f"{word!r} must be a field and its values, {EXAMPLE}")
            if name in SAME_FOR_ALL:
                raise UserError(f"config.{name} must be the same for all trials: they are compared on validation")
            if name in fields:
                raise UserError(f"{name} is given twice")
            match = RANGE.fullmatch(text)
            for value in match.groups()[:2] if match else values:
                recipe_config([*recipe, f"--config.{name}={value}"])
            fields[name] = read_range(name, match, base[name]) if match else values
        return cls(tuple(recipe), fields)

    def combinations(self) -> list[Settings]:
        """Return every combination of the values, the last field changing fastest. UserError if a field has a range."""
        choices = []
        for name, field in self.fields.items():
            if isinstance(field, Range):
                raise UserError(f"a grid takes values, but {name} has a range: use --method=random or --method=tpe")
            choices.append(field)
        if math.prod(map(len, choices)) > MAX_COMBINATIONS:
            raise UserError(
                f"a grid has at most {MAX_COMBINATIONS:,} combinations, not {math.prod(map(len, choices)):,}"
            )
        return [dict(zip(self.fields, values, strict=True)) for values in itertools.product(*choices)]

    def words(self, settings: Settings) -> list[str]:
        """Return the command line of one trial, without its workdir."""
        return [*self.recipe, *(f"--config.{name}={value}" for name, value in settings.items())]

    def config(self, settings: Settings) -> FrozenConfigDict:
        """Return the config of one trial, without its test split, which no sweep reads. UserError if it is invalid."""
        config = complete(recipe_config(self.words(settings)))  # first, as its other splits must be those of the winner
        return changed(config, {"data.test": ""})

    def label(self, name: str) -> str:
        """Return the last part of a field's name if no other field shares it, or else the whole name."""
        last = name.rpartition(".")[2]
        return last if LAST_PARTS[last] == 1 else name

    def describe(self, settings: Settings) -> str:
        """Return the settings as one line, such as learning_rate=0.1,momentum=0.9."""
        return ",".join(f"{self.label(name)}={value}" for name, value in settings.items())

    def folder(self, settings: Settings) -> str:
        """Return the name of the settings' folder, which no other settings have."""
        text = self.describe(settings)
        plain = re.sub(r"[^\w.,=+-]+", "_", text)[:100]
        return plain if plain == text else f"{plain}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class Plan:
    """The plan of a sweep in `workdir`: `trials` runs of `config`, each with settings from `space`."""

    config: FrozenConfigDict
    workdir: Path
    space: Space
    method: str
    trials: int

    @property
    def monitor(self) -> str:
        return self.config.train.monitor

    def about(self) -> dict:
        """Return what all processes of the sweep must agree on, as flat JSON."""
        about = {"method": self.method, "fields": dict(self.space.fields), "config": self.config.to_dict()}
        return flatten(json.loads(json.dumps(about, default=vars)))

    def folder(self, settings: Settings) -> Path:
        return self.workdir / "trials" / self.space.folder(settings)


def with_defaults(plan: dict) -> dict:
    """Return a stored plan (see Plan.about); fields of the config that are newer than the plan have their defaults."""
    return flatten(json.loads(config_to_json(FrozenConfigDict(get_config()))), "config.") | plan


def recipe_config(words: Sequence[str]) -> ConfigDict:
    return read_flags(list(words), {}, load_recipe(flag_values(list(words), "--config")[-1])).config


def split_values(text: str) -> tuple[str, ...]:
    """Split "(8,16),(16,32)" into its values, of which one may be empty: commas in brackets do not separate them."""
    values, depth = [""], 0
    for character in text:
        depth += (character in "([") - (character in ")]")
        if character == "," and not depth:
            values.append("")
        else:
            values[-1] += character
    return tuple(dict.fromkeys(values))


def read_range(name: str, match: re.Match, default: object) -> Range:
    """Return the range, whose numbers have the type of the field's `default`."""
    if isinstance(default, bool) or not isinstance(default, int | float):
        raise UserError(f"config.{name} is not a number, so it cannot have a range: give values separated by commas")
    kind = int if isinstance(default, int) else float
    field = Range(kind(match[1]), kind(match[2]), bool(match[3]))
    if not (math.isfinite(field.low) and math.isfinite(field.high)):
        raise UserError(f"a range goes from one finite number to another, not {match[0]}")
    if not field.low < field.high or (field.log and field.low <= 0):
        raise UserError(f"a range is LOW..HIGH, LOW below HIGH and, with :log, above 0: not {match[0]}")
    return field
