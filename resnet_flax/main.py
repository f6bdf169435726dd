"""The program: `python -m resnet_flax.main --help` describes it.

Everything else is imported inside functions. Importing JAX takes a second, during which Ctrl-C should end the program
as at any other time, and which the help need not spend.
"""

import os
import signal
import sys
import threading
from typing import NoReturn


def main(argv: list[str]) -> int:
    """Run one command; return the process's exit code. Raises whatever is not a mistake of the user: a crash."""
    from resnet_flax.errors import INTERRUPTED, report_error
    from resnet_flax.text import lost_output

    lost_output.clear()
    try:
        run_command(argv)
    except Exception as error:
        return report_error(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    if not lost_output:
        return 0
    reader_is_gone = isinstance(lost_output[0], BrokenPipeError)
    return 128 + signal.SIGPIPE if reader_is_gone else report_error(lost_output[0])


def run_command(argv: list[str]) -> None:
    """Run one command. Raises UserError for a mistake in it, and whatever its verb raises."""
    from resnet_flax.errors import lookup
    from resnet_flax.text import print_line
    from resnet_flax.verbs import VERBS, help_text

    if {"--help", "-h"} & set(argv) or argv[:1] == ["help"]:
        given = argv[argv[:1] == ["help"] :]
        if given and not given[0].startswith("-"):
            lookup("verb", given[0], VERBS)
        print_line(help_text(next((word for word in given if word in VERBS), None)))
        return
    if "--version" in argv:
        print_line(versions())
        return
    if argv[:1] == ["completion"]:
        from resnet_flax.commands.completion import completion

        return completion(argv[1:])  # at once, as a starting shell waits for it
    from importlib import import_module

    from resnet_flax.cache import keep_compiled_programs
    from resnet_flax.command_line import parse
    from resnet_flax.memory import keep_freed_memory

    keep_compiled_programs()
    keep_freed_memory()
    verb, jobs, options = parse(argv)
    name = verb.replace("-", "_")
    function = getattr(import_module(f"resnet_flax.commands.{name}"), name)
    if signal.getsignal(signal.SIGINT) is end_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # from here on there may be something to clean up
        sys.unraisablehook = repeat_lost_ctrl_c
    if VERBS[verb].words == "workdirs":
        function(jobs, **options)
    else:
        function(*(jobs[0] if jobs else ()), **options)


def versions() -> str:
    from importlib import metadata

    from resnet_flax import __version__

    return f"resnet_flax {__version__}, jax {metadata.version('jax')}, Python {sys.version.split()[0]}"


def end_at_once(signum: int, frame: object) -> None:
    """End the process on Ctrl-C: a module that is being imported may replace an exception with another, or drop it."""
    os._exit(128 + signum)


def repeat_lost_ctrl_c(unraisable: "sys.UnraisableHookArgs") -> None:
    """Send Ctrl-C again if it came during a callback or a destructor, whose errors Python prints and drops."""
    if unraisable.exc_type is not KeyboardInterrupt:
        return sys.__unraisablehook__(unraisable)
    again = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
    again.daemon = True
    again.start()


def use_utf8() -> None:
    """Start Python again in UTF-8 mode if the locale has another encoding: libraries write paths in UTF-8 anyway."""
    if sys.getfilesystemencoding() != "utf-8":
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def open_standard_streams() -> None:
    """Open /dev/null as stdin, stdout or stderr if closed, or the next file opened would get its number and output."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    sys.stdout, sys.stderr = sys.stdout or os.fdopen(1, "w"), sys.stderr or os.fdopen(2, "w")


def console() -> NoReturn:
    """Run this process's command and exit: the program `resnet-flax`, and `python -m resnet_flax.main`.

    After a crash the exit code is EX_SOFTWARE, 70, which a launcher can tell from 1, the code of a mistake.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not ignored, as it is under nohup
        signal.signal(signal.SIGINT, end_at_once)
    use_utf8()
    open_standard_streams()
    from resnet_flax import errors

    errors.runs_command_only = True
    try:
        code = main(sys.argv[1:])
    except Exception:
        sys.excepthook(*sys.exc_info())
        code = os.EX_SOFTWARE
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, end_at_once)  # Python takes a moment to end, too
    sys.exit(code)


if __name__ == "__main__":
    console()
