"""Configs are changed by copies."""

from ml_collections import ConfigDict, FrozenConfigDict

from resnet_flax.config.defaults import changed, get_config


def test_a_changed_copy_leaves_a_config_as_it_is():
    source = get_config()
    config = FrozenConfigDict(source)
    assert changed(config, {"data.dir": "elsewhere"}).data.dir == "elsewhere"
    assert config.data.dir == source.data.dir == ConfigDict(config).data.dir == ""
