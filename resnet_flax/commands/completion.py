"""Print a script by which a shell completes verbs, flags, fields and recipes, made from the tables of the help.

The scripts contain all names, so a shell completes without starting the program. Imports neither JAX nor TensorFlow, as
a shell may ask for its script whenever it starts.
"""

import shlex
from collections.abc import Callable

from resnet_flax.config.defaults import field_types
from resnet_flax.config.recipes import recipe_names
from resnet_flax.errors import UserError, lookup
from resnet_flax.text import print_line
from resnet_flax.verbs import VERBS, Verb, flag_help


def completion(shell: list[str]) -> None:
    """Print the script for a `shell`, one word. Raises UserError for any but bash, zsh and fish."""
    if len(shell) != 1:
        raise UserError(f"which shell? {', '.join(f'completion {name}' for name in SHELLS)}")
    print_line(lookup("shell", shell[0], SHELLS)())


def verb_flags(verb: Verb) -> dict[str, str]:
    """Return the flags of a verb, ending in "=" if they take a value, and what they do; "--config." begins a field."""
    if verb.standalone:
        return {}
    own = {f"--{name}{'=' * bool(flag.value)}": flag_help(flag) for name, flag in verb.flags.items()}
    recipe = {} if verb.trained else {"--config=": "a recipe"}
    return own | recipe | {"--config.": "set a field of the config", "--workdir=": "the folder of the run"}


def path_flags() -> list[str]:
    """Return the verbs' own flags whose value is a path."""
    flags = {name: flag for verb in VERBS.values() for name, flag in verb.flags.items()}
    return [f"--{name}" for name, flag in flags.items() if flag.value == "PATH"]


def field_flags() -> list[str]:
    """Return --config.FIELD for each field, ending in "=" unless it is a switch."""
    return [f"--config.{name}{'=' * (kind is not bool)}" for name, (kind, _) in field_types().items()]


def flags_before_values() -> list[str]:
    """Return the flags whose value may be the next word; --config.FIELD is any field that is no switch."""
    own = {flag[:-1] for verb in VERBS.values() for flag in verb_flags(verb) if flag.endswith("=")}
    return sorted(own | {flag[:-1] for flag in field_flags() if flag.endswith("=")})


def shell_script(template: str) -> str:
    """Return the script of bash or zsh: `template` with the names in place of @NAMES@."""
    cases = [
        f"        {name}) kind={verb.words or 'none'}; flags={shlex.quote(' '.join(verb_flags(verb)))} ;;"
        for name, verb in VERBS.items()
    ]
    parts = {
        "program": COMPLETED_PROGRAM,
        "verbs": " ".join(VERBS),
        "fields": " ".join(field_flags()),
        "names": " ".join(field_types()),
        "recipes": " ".join(recipe_names()),
        "shells": " ".join(SHELLS),
        "paths": "|".join(f"{flag}=*" for flag in path_flags()),
        "before": " ".join(flags_before_values()),
        "cases": "\n".join(cases),
    }
    for name, part in parts.items():
        template = template.replace(f"@{name}@", part)
    return template


def fish_script() -> str:
    """Return the script of fish, a line for each name, with what the help says about it."""
    lines = [f"# Completion of {COMPLETED_PROGRAM} in fish: ~/.config/fish/completions/{COMPLETED_PROGRAM}.fish"]

    def complete(*words: str, when: str = "") -> None:
        words = ("complete", "-c", COMPLETED_PROGRAM, *(("-n", when) if when else ()), *words)
        lines.append(" ".join(map(shlex.quote, words)))

    complete("-f")
    for name, verb in VERBS.items():
        complete("-a", name, "-d", verb.summary, when="__fish_use_subcommand")
        others = " ".join(other for other in VERBS if other != name)
        after = f"__fish_seen_subcommand_from {name}"
        if name == "train":  # which is meant without a verb, too
            after = f"not __fish_seen_subcommand_from {others}"
        for flag, about in verb_flags(verb).items():
            if not flag.startswith(("--config", "--workdir")):
                values = ["-r", "-F"] if flag[:-1] in path_flags() else ["-x"] if flag.endswith("=") else []
                complete("-l", flag[2:].removesuffix("="), *values, "-d", about, when=after)
        if verb.words:
            complete(*FISH_WORDS[verb.words](), when=after)
    complete("-l", "workdir", "-x", "-a", FISH_FOLDERS, "-d", "the folder of the run")
    complete("-l", "config", "-r", "-F", "-a", " ".join(recipe_names()), "-d", "a recipe")
    for flag in field_flags():
        complete("-l", flag[2:].removesuffix("="), *(["-x"] if flag.endswith("=") else []))
    return "\n".join(lines)


COMPLETED_PROGRAM = "resnet-flax"
FISH_FOLDERS = "(__fish_complete_directories)"
FISH_WORDS: dict[str, Callable[[], list[str]]] = {
    "workdirs": lambda: ["-a", FISH_FOLDERS],
    "files": lambda: ["-F"],
    "fields": lambda: ["-a", " ".join(f"{name}=" for name in field_types())],
    "shell": lambda: ["-a", " ".join(SHELLS)],
}

BASH = r"""# Completion of @program@ in bash. In ~/.bashrc: source <(@program@ completion bash)
_resnet_flax() {
    local IFS=$' \t\n' line=${COMP_LINE:0:COMP_POINT} current= verb= word words flag= flags kind= paths= value last
    local verbs="@verbs@" fields="@fields@" recipes="@recipes@" before=" @before@ "
    read -a words <<< "$line" # without -r, so that a space after a backslash is part of a word
    [[ $line == *[[:space:]] ]] || { current=${words[-1]}; unset 'words[-1]'; }
    for word in "${words[@]:1}"; do
        if [[ $flag ]]; then
            flag= # and this is its value
        elif [[ $word != -* ]]; then
            verb=${verb:-$word}
        elif [[ $before == *" $word "* ]]; then
            flag=$word
        fi
    done
    case ${verb:-train} in
@cases@
    esac
    value=${current#*=}
    [[ $flag ]] && value=$current
    case ${flag:+$flag=}$current in
        --config=*) paths=-f; COMPREPLY=($(compgen -W "$recipes" -- "$value")) ;;
        --workdir=*) paths=-d ;;
        @paths@) paths=-f ;;
        --config.*) value=$current; COMPREPLY=($(compgen -W "$fields" -- "$current")) ;;
        -*=*) ;;
        -*) value=$current; COMPREPLY=($(compgen -W "$flags" -- "$current")) ;;
        *)
            value=$current
            [[ $verb ]] || { COMPREPLY=($(compgen -W "$verbs" -- "$current")); kind=none; }
            case $kind in
                workdirs) paths=-d ;;
                files) paths=-f ;;
                fields) COMPREPLY=($(compgen -S = -W "@names@" -- "$current")) ;;
                shell) COMPREPLY=($(compgen -W "@shells@" -- "$current")) ;;
            esac
            ;;
    esac
    if [[ $paths ]]; then
        IFS=$'\n'
        [[ $COMPREPLY ]] || COMPREPLY=($(compgen $paths -- "$value"))
        compopt -o filenames 2> /dev/null
    fi
    # readline breaks a word at = and replaces what follows the last one; where it does not, it needs the whole word.
    last=${value##*=}
    if [[ $COMP_WORDBREAKS != *=* ]]; then
        [[ $value != "$current" ]] && COMPREPLY=("${COMPREPLY[@]/#/${current%%=*}=}")
    elif [[ $paths && $last != "$value" && $line != *\\=* ]]; then
        for word in "${!COMPREPLY[@]}"; do # readline cannot tell that the rest of a path is that of a folder
            [[ -d ${COMPREPLY[word]} ]] && COMPREPLY[word]+=/
        done
        COMPREPLY=("${COMPREPLY[@]#"${value%"$last"}"}")
    fi
    [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *[=./] ]] && compopt -o nospace 2> /dev/null
    return 0
}
complete -F _resnet_flax @program@
"""

ZSH = r"""# Completion of @program@ in zsh. In ~/.zshrc, after compinit: source <(@program@ completion zsh)
_resnet_flax() {
    local verb= word flag= flags kind before=" @before@ "
    for word in ${words[2,CURRENT-1]}; do
        if [[ -n $flag ]]; then
            flag= # and this is its value
        elif [[ $word != -* ]]; then
            verb=${verb:-$word}
        elif [[ $before == *" $word "* ]]; then
            flag=$word
        fi
    done
    case ${verb:-train} in
@cases@
    esac
    case ${flag:+$flag=}$PREFIX in
        --config=*) compset -P '*='; compadd -- @recipes@; _files -g '*.py' ;;
        --workdir=*) compset -P '*='; _files -/ ;;
        @paths@) compset -P '*='; _files ;;
        --config.*) [[ -n $flag ]] || compadd -S '' -- @fields@ ;;
        -*=*) ;;
        -*) compadd -S '' -- ${=flags} ;;
        *)
            [[ -n $verb ]] || { compadd -- @verbs@; return }
            case $kind in
                workdirs) _files -/ ;;
                files) _files ;;
                fields) compadd -S = -- @names@ ;;
                shell) compadd -- @shells@ ;;
            esac
            ;;
    esac
}
compdef _resnet_flax @program@
"""

SHELLS: dict[str, Callable[[], str]] = {
    "bash": lambda: shell_script(BASH),
    "zsh": lambda: shell_script(ZSH),
    "fish": fish_script,
}
