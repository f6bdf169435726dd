"""The completion scripts: bash runs its own, and all of them have every name."""

import os
import pty
import select
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from resnet_flax.config.defaults import field_types
from resnet_flax.config.recipes import recipe_names
from resnet_flax.main import main
from resnet_flax.verbs import VERBS

ROOT = Path(__file__).parents[2]
# Types a line as far as the cursor, as readline calls the function, and prints the candidates.
ASK = r"""
source "$1"; shift
compopt() { option=" ($2)"; }
for line; do
    option= COMP_LINE=$line COMP_POINT=${#line} COMP_CWORD=1 COMP_WORDS=(x) COMPREPLY=()
    _resnet_flax
    echo "${COMPREPLY[*]}$option"
done
"""


def script(shell: str, capsys) -> str:
    assert main(["completion", shell]) == 0
    return capsys.readouterr().out


def candidates(folder: Path, capsys, *lines: str, setup: str = "") -> list[str]:
    """Return what bash offers at the end of each line, in a folder with a few others and a recipe."""
    (folder / "script.bash").write_text(script("bash", capsys) + setup)
    (folder / "runs" / "preact").mkdir(parents=True, exist_ok=True)
    (folder / "my photos").mkdir(exist_ok=True)
    (folder / "mine.py").touch()
    command = ["bash", "--norc", "-c", ASK, "-", "./script.bash", *lines]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_bash_completes_verbs_flags_fields_recipes_and_paths(tmp_path, capsys):
    prefix = "resnet-flax "
    expected = {
        "": " ".join(VERBS),
        "su": "summary",
        "--config=prea": "preact (filenames)",
        "--config=mi": "mine.py (filenames)",
        "--config.optimizer.l": "--config.optimizer.learning_rate= (nospace)",
        "train --config=preact --config.optimizer.ne": "--config.optimizer.nesterov",
        "--conf": "--config= --config.",
        "--tr": "--track= (nospace)",
        "sweep --config=preact --m": "--method= (nospace)",
        "sweep --config=preact optimizer.l": "optimizer.learning_rate= (nospace)",
        "--workdir=r": "runs (filenames)",
        "report --w": "--watch --workdir=",
        "report r": "runs (filenames)",
        "predict mi": "mine.py (filenames)",
        "export --output=mi": "mine.py (filenames)",
        "export --images": "",
        "--config preact --tr": "--track= (nospace)",
        "--config prea": "preact (filenames)",
        "--workdir r": "runs (filenames)",
        "--workdir runs eva": "evaluate",
        "--config.train.epochs 3 eva": "evaluate",
        "predict --top 3 mi": "mine.py (filenames)",
        "--track=w": "",
        "predict my": "my photos (filenames)",
        "list --": "",
        "completion z": "zsh",
        "nonsense ": "",
    }
    found = candidates(tmp_path, capsys, *(prefix + line for line in expected))
    assert dict(zip(expected, found, strict=True)) == expected


def test_bash_gives_the_whole_word_where_it_does_not_break_at_an_equals_sign(tmp_path, capsys):
    lines = ["resnet-flax --config=prea", "resnet-flax --workdir=r"]
    found = candidates(tmp_path, capsys, *lines, setup="COMP_WORDBREAKS=${COMP_WORDBREAKS//=}\n")
    assert found == ["--config=preact (filenames)", "--workdir=runs (filenames)"]


def test_a_person_at_a_terminal_who_presses_tab_gets_the_rest_of_the_word(tmp_path, capsys):
    """Nothing is quoted, a folder ends in a slash, and a word that is whole in a space."""
    (tmp_path / "script.bash").write_text(script("bash", capsys))
    for folder in ("runs", "my photos", "grid/lr=0.1"):
        (tmp_path / folder).mkdir(parents=True)
    terminal, end = pty.openpty()
    command = ["bash", "--norc", "--noprofile", "-i"]
    process = subprocess.Popen(command, cwd=tmp_path, stdin=end, stdout=end, stderr=end, start_new_session=True)
    os.close(end)
    os.write(terminal, b"PS1= TERM=dumb; bind 'set enable-bracketed-paste off'; source ./script.bash\n")
    for typed, rest in {
        "resnet-flax sw": "eep ",
        "resnet-flax --config=prea": "ct ",
        "resnet-flax --config.train.ep": "ochs=",
        "resnet-flax sweep optimizer.learn": "ing_rate=",
        "resnet-flax report --workdir=ru": "ns/",
        "resnet-flax report grid/lr=0": ".1/",
        "resnet-flax report --workdir=grid/lr=0": ".1/",
        r"resnet-flax report grid/lr\=0": ".1/",
        r"resnet-flax predict my\ ph": "otos/",
    }.items():
        os.write(terminal, f"\x15{typed}\t|".encode())  # Ctrl-U empties the line
        seen = ""
        while f"{typed}{rest}|" not in seen:
            assert select.select([terminal], [], [], 20)[0], repr(seen)
            seen += os.read(terminal, 1000).decode()
    process.kill()
    process.wait()
    os.close(terminal)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_name_is_in_the_script_of_every_shell(shell, capsys):
    text = script(shell, capsys)
    fields = [f"config.{name}" for name in field_types()]
    own = [name for verb in VERBS.values() for name in verb.flags]
    for name in (*VERBS, *fields, *own, *recipe_names(), "--config", "workdir"):
        assert name.removeprefix("--" if shell == "fish" else "") in text
    assert "@" not in text.replace("[@]", "")
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=text, text=True, check=True)


def test_which_shell_is_asked_or_corrected(capsys):
    for words, message in {
        ("completion",): "which shell? completion bash, completion zsh, completion fish",
        ("completion", "bash", "zsh"): "which shell? completion bash, completion zsh, completion fish",
        ("completion", "fsh"): "unknown shell 'fsh': did you mean 'fish'?",
    }.items():
        assert main(list(words)) == 1
        assert capsys.readouterr() == ("", f"error: {message}\n")


def test_a_script_takes_no_time():
    code = "import sys; from resnet_flax.main import main; main(['completion', 'bash']); "
    code += "assert not {'jax', 'tensorflow', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
