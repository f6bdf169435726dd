"""Guesses at a field's name lead to the field."""

import pytest

from resnet_flax.config.defaults import field_types
from resnet_flax.config.suggestions import ALIASES, CHOOSE_DEVICE, fields_called, unknown_field

GUESSES = {
    "lr": "optimizer.learning_rate",
    "optimizer.lr": "optimizer.learning_rate",
    "optimizer.LR": "optimizer.learning_rate",
    "learning_rate": "optimizer.learning_rate",
    "learning-rate": "optimizer.learning_rate",
    "train.learning_rate": "optimizer.learning_rate",
    "optimizer.learningrate": "optimizer.learning_rate",
    "batch": "train.batch_size",
    "bs": "train.batch_size",
    "batch_size": "train.batch_size",
    "data.batch_size": "train.batch_size",
    "batchsize": "train.batch_size",
    "epochs": "train.epochs",
    "epoch": "train.epochs",
    "num_epochs": "train.epochs",
    "trian.epochs": "train.epochs",
    "wd": "optimizer.weight_decay",
    "decay": "optimizer.weight_decay",
    "weight_decay": "optimizer.weight_decay",
    "train.seed": "seed",
    "dropout": "model.block_dropout",
    "width": "model.widths",
    "depth": "model.blocks",
    "net": "model.name",
    "model": "model.name",
    "model.nam": "model.name",
    "opt": "optimizer.name",
    "optimizer": "optimizer.name",
    "optimizer.momentun": "optimizer.momentum",
    "momentum": "optimizer.momentum",
    "nesterov": "optimizer.nesterov",
    "schedule": "schedule.name",
    "warm_up": "schedule.warmup",
    "dataset": "data.name",
    "augment": "data.policy",
    "precision": "model.compute_dtype",
}


@pytest.mark.parametrize(("guess", "field"), GUESSES.items(), ids=GUESSES)
def test_a_guess_leads_to_the_field(guess, field):
    assert unknown_field(guess) == f"unknown field config.{guess}: did you mean {field!r}?"


def test_aliases_are_no_fields_themselves_and_lead_to_fields():
    assert set(ALIASES.values()) <= set(field_types())
    assert not ALIASES.keys() & field_types().keys()


def test_a_field_of_several_sections_is_sought_in_its_own():
    assert fields_called("name") == ["data.name", "model.name", "optimizer.name", "schedule.name"]
    assert fields_called("model.name") == ["model.name"]
    assert unknown_field("nam").endswith("'data.name' or 'model.name' or 'optimizer.name' or 'schedule.name'?")


@pytest.mark.parametrize("guess", ["gpu", "device", "train.device", "cuda"])
def test_the_device_is_no_field(guess):
    assert unknown_field(guess) == f"unknown field config.{guess}: {CHOOSE_DEVICE}"


def test_what_is_near_nothing_lists_its_section_or_all_sections():
    assert "the choices are: optimizer.b1, " in unknown_field("optimizer." + "z" * 2000)
    assert len(unknown_field("z" * 2000)) < 200
    assert unknown_field("x1").endswith("the choices are: data, model, optimizer, parallel, schedule, seed, train")
