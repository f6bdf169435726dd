"""Weights go to PyTorch's names and back bit for bit, and an imported run trains like one that started with them."""

import argparse
import importlib.util
import json
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy

from resnet_flax.commands.export import export
from resnet_flax.commands.import_torch import import_torch
from resnet_flax.config.checks import complete
from resnet_flax.config.defaults import changed, get_config
from resnet_flax.config.stored import config_to_json, read_config
from resnet_flax.errors import UserError
from resnet_flax.main import main
from resnet_flax.models.resnet import ResNet
from resnet_flax.models.torch_weights import from_torch, to_torch
from resnet_flax.models.weight_files import read_metadata, read_weights
from resnet_flax.training.initial import digest
from resnet_flax.training.restore import checkpoint_template
from resnet_flax.training.run import Run
from resnet_flax.training.step import Totals
from resnet_flax.training.train import train
from resnet_flax.workdir.checkpoints import Checkpoint, Checkpoints

pytestmark = pytest.mark.usefixtures("undrawn")

ROOT = Path(__file__).parents[2]
needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")


def variables(**architecture) -> dict:
    """Return random variables of a narrow network."""
    model = ResNet(**(dict(blocks=(1, 2), widths=(4, 8)) | architecture))
    shapes = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), np.zeros((1, 8, 8, 3)))
    draw = np.random.default_rng(0).normal
    return jax.tree.map(lambda leaf: draw(size=leaf.shape).astype(np.float32), dict(shapes))


def tiny_config(**model):
    config = get_config()
    config.model.update(dict(blocks=(1, 1), widths=(4, 8)) | model)
    config.data.train_examples = 128
    config.train.batch_size = 32
    config.train.epochs = 1
    return complete(config)


def assert_equal(a: dict, b: dict) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype
        np.testing.assert_array_equal(a[name], b[name])


def fitting(config) -> dict:
    """Return a state_dict of random numbers for the network of `config`."""
    state = checkpoint_template(config)["state"]
    draw = np.random.default_rng(1).normal
    shapes = to_torch({"params": state.params, "batch_stats": state.batch_stats})
    return {name: draw(size=tensor.shape).astype(np.float32) for name, tensor in shapes.items()}


def test_names_are_the_usual_ones():
    names = to_torch(variables())
    assert {"conv1.weight", "bn1.running_var", "layer2.0.shortcut.0.weight", "layer2.0.shortcut.1.bias"} <= names.keys()
    assert {"layer2.1.conv2.weight", "layer2.1.bn2.running_mean", "linear.weight", "linear.bias"} <= names.keys()
    assert names["layer2.0.conv1.weight"].shape == (8, 4, 3, 3)
    assert names["linear.weight"].shape == (10, 8)
    preact = to_torch(variables(block="preact", final_norm=True))
    assert "bn.weight" in preact
    assert "bn1.weight" not in preact
    assert "layer2.0.shortcut.1.weight" not in preact
    pool = to_torch(variables(stem="whitening", block="pool"))
    assert {"whitening.weight", "layer1.0.entry.0.weight", "layer2.0.entry.1.running_var"} <= pool.keys()
    resnet_d = to_torch(variables(block="bottleneck", groups=2, bottleneck_ratio=0.5, shortcut="avg_pool", se=True))
    assert {"layer1.0.bn3.weight", "layer2.0.shortcut.1.weight", "layer2.0.shortcut.2.running_var"} <= resnet_d.keys()
    assert resnet_d["layer2.0.conv2.weight"].shape == (4, 2, 3, 3)
    assert resnet_d["layer2.0.se.fc1.weight"].shape == (1, 8, 1, 1)


def test_layout_is_out_in_height_width():
    ours = variables()
    theirs = to_torch(ours)
    kernel = ours["params"]["stem_conv"]["kernel"]
    assert theirs["conv1.weight"][3, 1, 0, 2] == kernel[0, 2, 1, 3]
    assert theirs["linear.weight"][7, 5] == ours["params"]["head"]["kernel"][5, 7]


ARCHITECTURES = [
    {},
    dict(block="preact"),
    dict(block="preact", final_norm=True),
    dict(stem="whitening", block="pool"),
    dict(block="bottleneck", groups=2, bottleneck_ratio=0.5, shortcut="avg_pool", se=True),
]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_there_and_back_is_bit_exact(architecture):
    ours = variables(**architecture)
    back = from_torch(to_torch(ours), ours)
    assert jax.tree.structure(back) == jax.tree.structure(ours)
    jax.tree.map(np.testing.assert_array_equal, back, ours)


def test_prefix_and_step_counters_are_ignored():
    ours = variables()
    theirs = {f"module.{name}": tensor for name, tensor in to_torch(ours).items()}
    theirs["module.bn1.num_batches_tracked"] = np.array(7)
    jax.tree.map(np.testing.assert_array_equal, from_torch(theirs, ours), ours)


@pytest.mark.parametrize("wrapper", ["", "module.", "_orig_mod.", "module._orig_mod.", "model.", "net.module."])
def test_names_of_torchvision_and_timm_are_placed(wrapper):
    ours = variables()
    renamed = {"linear.": "fc.", ".shortcut.": ".downsample."}
    theirs = {}
    for name, tensor in to_torch(ours).items():
        for old, new in renamed.items():
            name = name.replace(old, new)
        theirs[wrapper + name] = tensor
    assert {f"{wrapper}fc.weight", f"{wrapper}layer2.0.downsample.1.running_mean"} <= theirs.keys()
    jax.tree.map(np.testing.assert_array_equal, from_torch(theirs, ours), ours)


def test_misfits_are_named():
    ours = variables()
    theirs = to_torch(ours)
    theirs["head.weight"] = theirs.pop("linear.weight")
    theirs["conv1.weight"] = theirs["conv1.weight"][..., :1]
    theirs["module.linear.bias"] = theirs["linear.bias"]
    with pytest.raises(UserError) as refusal:
        from_torch(theirs, ours)
    assert str(refusal.value) == (
        "missing: linear.weight; unexpected: head.weight; ambiguous: linear.bias, module.linear.bias; "
        "of another shape: conv1.weight (4, 3, 3, 1) instead of (4, 3, 3, 3)"
    )


def test_only_the_first_names_are_listed():
    ours = variables()
    with pytest.raises(UserError, match=r"missing: ([\w.]+, ){5}and \d+ more$"):
        from_torch({}, ours)


def test_safetensors_in_and_out_is_the_same_file_with_the_config_in_it(tmp_path):
    config, file, copy = tiny_config(), tmp_path / "in.safetensors", tmp_path / "deep" / "out.safetensors"
    here = changed(config, {"data.dir": str(tmp_path)})
    safetensors.numpy.save_file(fitting(config), file)
    import_torch(here, tmp_path / "run", str(file))
    export(here, tmp_path / "run", "safetensors", str(copy))
    assert safetensors.numpy.save(safetensors.numpy.load_file(copy)) == file.read_bytes()
    assert json.loads(read_metadata(copy)["config"]) == json.loads(config_to_json(config))  # without the data's folder
    with pytest.raises(UserError, match="already holds a run"):
        import_torch(here, tmp_path / "run", str(file))


def test_a_refused_import_leaves_the_finished_run_as_it_was(tmp_path, capsys):
    safetensors.numpy.save_file(fitting(tiny_config()), tmp_path / "in.safetensors")
    import_torch(tiny_config(), tmp_path / "run", str(tmp_path / "in.safetensors"))
    results = tmp_path / "run" / "report" / "results.json"
    results.parent.mkdir()
    results.write_text("{}")
    stored = (tmp_path / "run" / "config.json").read_text()
    capsys.readouterr()
    longer = changed(tiny_config(), {"train.epochs": 2})
    with pytest.raises(UserError, match="already holds a run"):
        import_torch(longer, tmp_path / "run", str(tmp_path / "in.safetensors"))
    assert results.exists() and (tmp_path / "run" / "config.json").read_text() == stored
    assert "extending" not in capsys.readouterr().out


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_imported_run_trains_like_one_that_started_with_these_weights(tmp_path, optimizer):
    changes = get_config()
    changes.update(tiny_config().to_dict())
    changes.optimizer.name = optimizer
    changes.schedule.update(dict(name="onecycle", per="step"))
    config = complete(changes)
    run, file = Run(config), tmp_path / "fresh.safetensors"
    began = {"state": run.fresh_state(), "totals": run.parallel.replicate(Totals.zero())}
    weights = to_torch({"params": began["state"].params, "batch_stats": began["state"].batch_stats})
    safetensors.numpy.save_file(weights, file)
    import_torch(config, tmp_path / "run", str(file))
    with Checkpoints(tmp_path / "run" / "checkpoints") as checkpoints:
        imported = checkpoints.restore_newest(began)
        assert (imported.step, imported.history) == (0, [])
        ours = run.advance(0)(imported.tree["state"], imported.tree["totals"], 1)
        theirs = run.advance(0)(began["state"], began["totals"], 1)
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
        state, totals, _ = ours
        trained = {"learning_rate": 0.1, "train_loss": 1.5, "train_accuracy": 0.25}
        history = [{"epoch": 1, "step": 1, **trained, "val_accuracy": 0.5}]
        checkpoints.save(Checkpoint(1, {"state": state, "totals": totals}, history), [1])
        worse = {"state": jax.tree.map(np.zeros_like, state), "totals": totals}
        checkpoints.save(Checkpoint(2, worse, [*history, {"epoch": 2, "step": 2, **trained, "val_accuracy": 0.4}]), [1])
    export(config, tmp_path / "run", "safetensors", "")
    trained = safetensors.numpy.load_file(tmp_path / "run" / "weights.safetensors")
    assert_equal(trained, to_torch({"params": state.params, "batch_stats": state.batch_stats}))
    assert not np.array_equal(trained["conv1.weight"], weights["conv1.weight"])


def test_an_imported_run_says_what_it_started_from_and_the_command_of_its_card_trains_the_same(tmp_path):
    config, file = tiny_config(), tmp_path / "in.safetensors"
    safetensors.numpy.save_file(fitting(config), file)
    import_torch(config, tmp_path / "run", str(file))
    results = train(complete(read_config(tmp_path / "run")), tmp_path / "run")
    assert results["init"] == {"weights": str(file), "sha256": digest(read_weights(file))}
    export(complete(read_config(tmp_path / "run")), tmp_path / "run", "hub", "")
    assert "| started from | " in (tmp_path / "run" / "hub" / "README.md").read_text()
    exported = json.loads((tmp_path / "run" / "hub" / "results.json").read_text())
    assert "--config.train.init_from=" in exported["command"]
    again = train(changed(config, {"train.init_from": str(file)}), tmp_path / "again")
    assert [again[name] for name in ("train_loss", "test_loss")] == [results["train_loss"], results["test_loss"]]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("absent.pt", None, "there is no file"),
        ("weights.onnx", b"x", "unknown extension of a weights file '.onnx'"),
        ("broken.safetensors", b"not at all", "is not a safetensors file"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, content, words):
    if content:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=words):
        import_torch(tiny_config(), tmp_path / "run", str(tmp_path / name))
    assert not (tmp_path / "run").exists()


def test_a_file_of_another_network_leaves_no_run(tmp_path):
    file = tmp_path / "wide.safetensors"
    safetensors.numpy.save_file(fitting(tiny_config(widths=(4, 12))), file)
    with pytest.raises(UserError, match=r"wide.safetensors does not fit config.model 'tiny': of another shape: "):
        import_torch(tiny_config(), tmp_path / "run", str(file))
    assert not (tmp_path / "run").exists()


def test_without_torch_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    file = tmp_path / "weights.pt"
    file.write_bytes(b"x")
    with pytest.raises(UserError, match=r"needs PyTorch: install it .* -e '.\[reference\]'\)"):
        import_torch(tiny_config(), tmp_path / "run", str(file))


def test_a_file_beyond_the_limit_is_refused_before_it_is_read(tmp_path):
    for name in ("weights.safetensors", "weights.pt", "WEIGHTS.BIN"):
        with open(tmp_path / name, "wb") as file:
            file.truncate(3 * 2**30)
        with pytest.raises(UserError, match=f"{name} has 3,221,225,472 bytes, more than 1,073,741,824$"):
            import_torch(tiny_config(), tmp_path / "run", str(tmp_path / name))


def test_a_key_of_a_safetensors_is_refused(tmp_path):
    safetensors.numpy.save_file(fitting(tiny_config()), tmp_path / "in.safetensors")
    with pytest.raises(UserError, match=r"unknown key of .*in.safetensors 'ema': the choices are: state_dict"):
        import_torch(tiny_config(), tmp_path / "run", str(tmp_path / "in.safetensors"), "ema")


@needs_torch
def test_of_a_checkpoint_with_several_state_dicts_one_must_be_chosen(tmp_path):
    import torch

    config, tensors = tiny_config(), fitting(tiny_config())
    state_dict = {name: torch.from_numpy(tensor) for name, tensor in tensors.items()}
    average = {f"module.{name}": tensor + 1 for name, tensor in state_dict.items()} | {"n_averaged": torch.tensor(9)}
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(2, 2))]).state_dict()
    file = tmp_path / "checkpoint.bin"
    torch.save({"model": state_dict, "state_dict_ema": average, "optimizer": optimizer, "epoch": 3}, file)
    with pytest.raises(UserError) as refusal:
        import_torch(config, tmp_path / "run", str(file))
    assert str(refusal.value) == f"{file} holds several state_dicts, choose one: --key=model, --key=state_dict_ema"
    with pytest.raises(UserError, match=r"unknown key of .* 'modle': did you mean 'model'"):
        import_torch(config, tmp_path / "run", str(file), "modle")
    flags = [f"--config={ROOT}/configs/quickstart.py", "--config.model.blocks=(1,1)", "--config.model.widths=(4,8)"]
    assert main(["import-torch", *flags, f"--file={file}", "--key=state_dict_ema", f"--workdir={tmp_path}/run"]) == 0
    export(complete(read_config(tmp_path / "run")), tmp_path / "run", "safetensors", "")
    exported = safetensors.numpy.load_file(tmp_path / "run" / "weights.safetensors")
    assert_equal(exported, {name: tensor + 1 for name, tensor in tensors.items()})


@needs_torch
def test_what_a_checkpoint_holds_beside_tensors_is_ignored_and_not_run(tmp_path):
    import torch

    class Calls:
        def __reduce__(self):
            return np.save, (f"{tmp_path}/pwned.npy", 1)

    tensors = fitting(tiny_config())
    beside = {
        "acc": np.float64(93.5),
        "curve": np.arange(3),
        "args": argparse.Namespace(out=Path("x")),
        "hook": Calls(),
    }
    state_dict = {name: torch.from_numpy(tensor) for name, tensor in tensors.items()}
    torch.save({"net": state_dict, **beside}, tmp_path / "a.pt")
    assert_equal(read_weights(tmp_path / "a.pt"), tensors)
    assert not (tmp_path / "pwned.npy").exists()


@needs_torch
@pytest.mark.parametrize("nested", [False, True])
def test_torch_files(tmp_path, nested):
    import torch

    config, tensors = tiny_config(), fitting(tiny_config())
    state_dict = {f"module.{name}": torch.from_numpy(tensor) for name, tensor in tensors.items()}
    state_dict["module.bn1.num_batches_tracked"] = torch.tensor(7)
    torch.save({"net": state_dict, "acc": 93.5, "epoch": 3} if nested else state_dict, tmp_path / "in.pth")
    import_torch(config, tmp_path / "run", str(tmp_path / "in.pth"))
    export(config, tmp_path / "run", "torch", "")
    exported = torch.load(tmp_path / "run" / "weights.pt", weights_only=True)
    assert_equal({name: tensor.numpy() for name, tensor in exported.items()}, tensors)


@needs_torch
def test_tensors_of_other_kinds_are_converted_or_refused(tmp_path):
    import torch

    kernel = torch.arange(6.0).reshape(2, 3)
    transposed = kernel.T.contiguous().T
    for tensor in (torch.nn.Parameter(kernel), kernel.double(), kernel.bfloat16(), kernel.int(), transposed):
        torch.save({"linear.weight": tensor}, tmp_path / "a.pt")
        read = read_weights(tmp_path / "a.pt")["linear.weight"]
        np.testing.assert_array_equal(read, np.arange(6, dtype=np.float32).reshape(2, 3))
    repeated = torch.zeros(1).expand(10**4, 10**4)
    for tensor, why in ((kernel.to_sparse(), "not plain arrays"), (repeated, "larger than the file")):
        torch.save({"linear.weight": tensor}, tmp_path / "a.pt")
        with pytest.raises(UserError, match=rf"a\.pt holds tensors that are {why}"):
            read_weights(tmp_path / "a.pt")


@needs_torch
def test_torch_files_with_something_else_are_refused(tmp_path):
    import torch

    for content in ([1, 2], {"a": Path("x")}, {"net": {"epoch": 1}}):
        torch.save(content, tmp_path / "odd.pt")
        with pytest.raises(UserError, match=r"odd.pt holds no state_dict: save one with torch.save"):
            import_torch(tiny_config(), tmp_path / "run", str(tmp_path / "odd.pt"))


def test_leaves_of_ones_own_keep_their_names_and_none_is_lost():
    own = {"params": {"act": {"negative_slope": np.float32([0.1])}, "conv": {"kernel": np.ones((1, 1, 2, 3), "f4")}}}
    tensors = to_torch(own)
    assert set(tensors) == {"act.negative_slope", "conv.weight"}
    assert jax.tree.all(jax.tree.map(np.array_equal, from_torch(tensors, own), own))
    both = {"params": {"conv": {"kernel": np.ones((1, 1, 2, 3), "f4"), "scale": np.ones(3, "f4")}}}
    for convert in (to_torch, partial(from_torch, tensors)):
        with pytest.raises(UserError, match=r"several parameters are called conv\.weight in PyTorch"):
            convert(both)
