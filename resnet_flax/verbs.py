"""The verbs of the command line with their flags, and the help. Imports nothing that takes time."""

import textwrap
from collections.abc import Mapping
from typing import NamedTuple

PROGRAM = "python -m resnet_flax.main"
HELP_WIDTH = 100  # characters of a line of help


class Flag(NamedTuple):
    """A verb's own flag; its value has the type of its default."""

    default: bool | int | str
    value: str  # stands for the value in the help; "" for a switch
    help: str
    field: str = ""  # the field of the config that it is short for, if any


class Verb(NamedTuple):
    """A verb: the function of its name in the module of its name in resnet_flax.commands.

    The function is called with a config, a workdir and the verb's own flags. `words` says what follows the verb on the
    command line: for "workdirs", the function gets a list of jobs instead of config and workdir; "files" and "fields"
    are passed as one more argument, fields together with `recipe`, the flags that set the config. A verb for a
    `trained` "run" uses the config in its workdir, never a recipe; one for a trained "network" also takes weights
    without a run. `workdir` describes --workdir where that is not the folder of a run. A `standalone` verb has no flags
    and no arguments.
    """

    summary: str
    example: str
    flags: Mapping[str, Flag] = {}
    details: str = ""
    words: str = ""
    trained: str = ""
    workdir: str = ""
    standalone: bool = False


TRACK = Flag("", "NAME", "also log to W&B (wandb) or MLflow (mlflow), or both, separated by a comma")
CHECKPOINT = Flag("best", "WHICH", "the checkpoint: best (by validation), newest, or the number of its step")

VERBS: dict[str, Verb] = {
    "train": Verb(
        "train a network, or resume its run, and write a report (the default verb)",
        "--config=preact --config.train.epochs=20 --workdir=runs/short",
        {
            "seeds": Flag("", "N", "train N times, or with the seeds in a list such as 0,1,2, and report the mean"),
            "init-from": Flag(
                "", "WEIGHTS", "start from trained weights: a pretrained network, a workdir, a file", "train.init_from"
            ),
            "track": TRACK,
        },
        "Run the same command again to resume after a stop. With --seeds each run lives in WORKDIR/seed0 and so on.",
    ),
    "list": Verb("list the recipes, networks, pretrained networks, and the runs in ./runs", "list", standalone=True),
    "summary": Verb(
        "print layers, parameters, memory and data of a config, and a run's checkpoints",
        "summary --config=resnet_353 --picture",
        {
            "picture": Flag(False, "", "also draw the network, with the layers of one block"),
            "output": Flag("", "PATH", "the file of --picture, .png or .svg; by default network.png in the workdir"),
        },
    ),
    "preview": Verb(
        "draw augmented training images",
        "preview --config=resnet_353 --versions=4",
        {
            "images": Flag(8, "N", "the number of images"),
            "versions": Flag(8, "N", "the number of augmented versions of each"),
        },
        "Writes WORKDIR/preview.png, from exactly the pixels that training sees.",
    ),
    "sweep": Verb(
        "train with several values of some fields, and rank the runs by validation",
        "sweep --config=preact optimizer.learning_rate=1e-3,3e-3 optimizer.b1=0.8,0.9",
        {
            "method": Flag("grid", "METHOD", "grid, random, or tpe (tree-structured Parzen estimator)"),
            "trials": Flag(0, "N", "the number of trials of random or tpe"),
            "storage": Flag("", "URL", "a database to share between machines; by default a file in the workdir"),
            "track": TRACK,
        },
        "FIELD=VALUE,... names a field of the config and its values. With random and tpe, a field may also have a "
        "range, such as optimizer.learning_rate=1e-3..1:log. Several processes may work on one sweep.",
        words="fields",
        workdir="the folder of the sweep, which the same command resumes (default: runs/NAME[-ARGUMENT])",
    ),
    "report": Verb(
        "draw the figures, tables and page of a run, or compare several runs",
        "report runs/preact runs/preact-sgd",
        {
            "output": Flag("", "PATH", "the folder of a comparison; by default `comparison` beside the first run"),
            "watch": Flag(False, "", "serve a page that follows the runs in these folders (or ./runs) as they train"),
            "port": Flag(0, "N", "the port of --watch, open to this machine only; by default a free one"),
        },
        "A run may still be training. Several runs are sorted by validation accuracy.",
        words="workdirs",
        trained="run",
    ),
    "evaluate": Verb(
        "score runs on a split, and their ensemble",
        "evaluate runs/preact runs/preact-sgd --tta=flip",
        {
            "split": Flag("test", "SPLIT", "test, validation, train, or a part of one such as train[:500]"),
            "checkpoint": CHECKPOINT,
            "tta": Flag("", "VIEWS", "test-time augmentation: also score the mean over flip, shift, or flip,shift"),
        },
        words="workdirs",
        trained="network",
    ),
    "predict": Verb(
        "classify your own images, or compute their features",
        "predict photos/ cat.jpg images.npy --top=3 --workdir=runs/preact",
        {
            "checkpoint": CHECKPOINT,
            "output": Flag("", "PATH", "the file, by default predictions.csv or submission.csv in the workdir"),
            "json": Flag(False, "", "write JSON, by default to predictions.json"),
            "top": Flag(1, "K", "the number of most probable classes for each image"),
            "probabilities": Flag(False, "", "also write the probability of every class"),
            "submission": Flag(False, "", "write the columns ID and Labels, as Kaggle wants them"),
        },
        "The extension of --output determines what is written: .csv or .json for predictions, .png for a contact sheet "
        "of the first 100 images with their predictions, .npy for features (images, channels) float32.",
        words="files",
        trained="network",
    ),
    "export": Verb(
        "export the trained weights, optionally with a model card, or a program for JAX or ONNX",
        "export --workdir=runs/preact --format=torch",
        {
            "format": Flag(
                "",
                "FORMAT",
                "safetensors (the default) or torch for weights, stablehlo or onnx for a program, hub for a "
                "folder with a model card",
            ),
            "output": Flag("", "PATH", "the file, whose extension can choose the format; by default in the workdir"),
            "push": Flag("", "OWNER/NAME", "also upload the folder of --format=hub to the Hugging Face Hub"),
        },
        "Uses the best checkpoint by validation, or the newest of a run without a validation split.",
        trained="network",
    ),
    "import-torch": Verb(
        "start a run from PyTorch weights",
        "import-torch --config=resnet_443 --file=weights.safetensors --workdir=runs/tuned",
        {
            "file": Flag("", "PATH", "a .safetensors file, or a state_dict in a .pt, .pth or .bin file"),
            "key": Flag("", "NAME", "the state_dict to use if the file holds several, such as ema"),
        },
        workdir="the folder of the new run (default: runs/NAME[-ARGUMENT])",
    ),
    "completion": Verb(
        "print a script for shell completion",
        "completion bash",
        details="In ~/.bashrc: source <(resnet-flax completion bash).",
        words="shell",
        standalone=True,
    ),
}

WORDS = {"workdirs": "[WORKDIR ...]", "files": "FILE ...", "fields": "FIELD=VALUE,... ...", "shell": "bash|zsh|fish"}

COMMON = {
    "--config=RECIPE[:ARGUMENT]": "a recipe such as preact, or a file such as configs/mine.py; :full trains on all "
    "examples; `list` shows all recipes",
    "--config.FIELD=VALUE": "set a field of the recipe, such as --config.train.epochs=20; the fields are described in "
    "resnet_flax/config/defaults.py",
    "--workdir=PATH": "the folder of the run (default: runs/NAME[-ARGUMENT]); it stores the config, so an "
    "existing run needs only --workdir",
}
OF_RUN = {
    "--config.FIELD=VALUE": "set a field of the run's config, such as --config.data.dir=photos",
    "--workdir=PATH": "the folder of the run",
}
WEIGHTS = "the folder of the run, exported weights, or a pretrained network (see `list`)"
COMMON_TRAINED = {"run": OF_RUN, "network": OF_RUN | {"--workdir=PATH": WEIGHTS}}


def help_text(verb: str | None) -> str:
    """Return the help of a verb, or the general help."""
    if verb is None:
        verbs = {name: verb.summary for name, verb in VERBS.items()}
        usage, about = "[VERB] [FLAG ...]", "Train residual networks on small images."
        own = {"--help, --version": "print this help, that of a verb (VERB --help), or the version"}
        parts, example = [section("verbs", verbs), section("flags", COMMON | own)], "--config=quickstart"
    else:
        summary, example, flags, details, words, trained, workdir, standalone = VERBS[verb]
        usage = " ".join(word for word in (verb, WORDS.get(words), "" if standalone else "[FLAG ...]") if word)
        about = " ".join([f"{summary[0].upper()}{summary[1:]}.", details]).strip()
        own = {flag_usage(name, flag): flag_help(flag) for name, flag in flags.items()}
        common = COMMON_TRAINED[trained] if trained else COMMON | ({"--workdir=PATH": workdir} if workdir else {})
        parts = [] if standalone else [section("flags", own | common)]
    text = textwrap.fill(about, HELP_WIDTH)
    return "\n\n".join([f"usage: {PROGRAM} {usage}", text, *parts, f"example\n  {PROGRAM} {example}"])


def section(title: str, entries: Mapping[str, str]) -> str:
    """Return the lines of a section: names in a column, and the text about each beside it."""
    left = max(map(len, entries)) + 4
    lines = [
        textwrap.fill(text, HELP_WIDTH, initial_indent=f"  {name:{left - 2}}", subsequent_indent=" " * left)
        for name, text in entries.items()
    ]
    return "\n".join([title, *lines])


def flag_usage(name: str, flag: Flag) -> str:
    return f"--{name}={flag.value}" if flag.value else f"--{name}"


def flag_help(flag: Flag) -> str:
    return f"{flag.help} (default: {flag.default})" if flag.default else flag.help
