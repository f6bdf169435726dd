"""Train with several processes on this machine, each with a GPU of its own: python launch/local.py 2 --config=FILE ...

Everything after the number is passed to resnet_flax.main. Without GPUs the processes share the CPU, to try out what a
cluster does.
"""

import os
import signal
import socket
import subprocess
import sys


def start(count: int, words: list[str], **options) -> list[subprocess.Popen]:
    """Start the processes of one run and return them in order; `options` are those of Popen."""
    run = {"JAX_NUM_PROCESSES": str(count), "JAX_COORDINATOR_ADDRESS": f"localhost:{free_port()}"}
    return [
        subprocess.Popen(
            [sys.executable, "-m", "resnet_flax.main", *words],
            env=os.environ | run | {"JAX_PROCESS_ID": str(index), "JAX_LOCAL_DEVICE_IDS": str(index)},
            **options,
        )
        for index in range(count)
    ]


def free_port() -> int:
    """Return a port of this machine on which nothing listens."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def main(argv: list[str]) -> int:
    """Train, and return the exit code of the process with the lowest number among those that failed, or 0."""
    if not argv or not argv[0].isdecimal() or argv[0] == "0":
        print(__doc__, end="", file=sys.stderr)
        return 2
    processes = start(int(argv[0]), argv[1:])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches them without us
    signal.signal(signal.SIGTERM, lambda *_: [process.terminate() for process in processes])
    codes = [process.wait() for process in processes]
    return next((code if code > 0 else 128 - code for code in codes if code), 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
