"""A page about runs while they train, served only to this machine: what their workdirs say, redrawn each time."""

import os
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from matplotlib.figure import Figure

from resnet_flax.config.stored import runs_below
from resnet_flax.errors import UserError
from resnet_flax.report import figures, html
from resnet_flax.report.ensure import is_current
from resnet_flax.report.html import Tile
from resnet_flax.report.render import svg
from resnet_flax.report.report import EPOCH_HEADER, epoch_rows
from resnet_flax.report.tables import decimal, percent
from resnet_flax.text import escape_line, print_line
from resnet_flax.training.progress import duration
from resnet_flax.workdir.history import best_row
from resnet_flax.workdir.live import CLOCK, RUN_STATES, Live, read_live

HOST = "127.0.0.1"
REFRESH_SECONDS = 3
LIST_HEADER = ["run", "state", "epochs", "time left", "best val acc", "train acc"]
ABOUT = {
    "not begun": "There is no run in this folder yet. This page shows it once it begins.",
    "training": "Training. This page follows the run and shows its report at the end.",
    "stopped": "Stopped: the same command resumes it.",
    "failed": "Failed: {}.",
    "finished": "Finished: its report appears here once it is written; the training command writes it.",
}


def serve(folders: Sequence[Path], port: int) -> None:
    """Serve a page about the runs in `folders` and below them on a `port`, 0 for a free one, until Ctrl-C."""
    if not 0 <= port < 2**16:
        raise UserError(f"--port must be from 0, for any free port, to {2**16 - 1}, not {port}")
    try:
        server = Server((HOST, port), Handler)
    except OSError as error:
        raise UserError(f"cannot serve on port {port}: {error.strerror}; choose another --port or omit it") from None
    server.pages = Pages(folders)
    with server:
        print_line(f"http://{HOST}:{server.server_port} shows {', '.join(map(str, folders))}; Ctrl-C stops serving")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return


class Page(NamedTuple):
    content: bytes
    is_last: bool  # it will not change any more


class Server(ThreadingHTTPServer):
    """A server of `pages` that prints nothing when a browser disconnects."""

    pages: "Pages"
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            socketserver.BaseServer.handle_error(self, request, client_address)  # type: ignore[arg-type]


class Handler(BaseHTTPRequestHandler):
    """Answer a GET with a page that reloads itself, without a script, as long as it may change."""

    server: Server
    timeout = 10  # seconds for a request

    def do_GET(self) -> None:
        if (self.headers["Host"] or "").partition(":")[0] not in (HOST, "localhost"):  # the port may be forwarded
            return self.send_error(403)  # DNS rebinding: another site's name was made to resolve to this address
        if not (page := self.server.pages.at(self.path)):
            return self.send_error(404)
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(page.content)))
        self.send_header("Cache-Control", "no-store")
        if not page.is_last:
            self.send_header("Refresh", str(REFRESH_SECONDS))
        self.end_headers()
        self.wfile.write(page.content)

    def log_message(self, *message: object) -> None:
        pass


class Pages:
    """The pages about the runs in `folders` and below: that of the only folder if it is a run, or else a list."""

    def __init__(self, folders: Sequence[Path]):
        self.folders = folders
        self.drawn: dict[str, tuple[object, str]] = {}  # name of a chart -> what it shows, and the chart
        self.lock = threading.Lock()  # Matplotlib draws in one thread at a time

    def at(self, url: str) -> Page | None:
        """Return the page at the path of a URL, None if there is none."""
        runs = find_runs(self.folders)
        single = self.folders[0] if len(self.folders) == 1 and runs in ([], [self.folders[0]]) else None
        with self.lock:
            if url == "/":
                return self.run_page(single) if single else self.list_page(runs)
            found = {link(run): run for run in runs}.get(url)
            return self.run_page(found) if found else None

    def run_page(self, workdir: Path) -> Page:
        """Return the report of a run if it has one, or else how far the run is."""
        live = read_live(workdir)
        report = workdir / "report" / "report.html"
        if live.state == "finished" and is_current(workdir):
            return Page(report.read_bytes(), True)
        parts = [html.paragraph(ABOUT[live.state].format(live.failure))]
        if live.state == "training":
            parts += [html.meter(share_done(live), "share of epochs done")]
        if live.state != "not begun":
            parts += [html.tiles(run_tiles(live))]
        if live.history:
            training = "training, mixed images" if live.mixes else "training"
            charts = [
                self.chart(
                    f"{quantity} of {workdir}",
                    f"{quantity.capitalize()} after each epoch",
                    partial(figures.training_curves, live.history, quantity, {}, training),
                    live.history,
                )
                for quantity in figures.QUANTITIES
            ]
            table = html.table(EPOCH_HEADER, epoch_rows(live.history)[::-1], "long")
            parts += [html.section("Training", html.pair(*charts)), html.section("Epochs, newest first", table)]
        return Page(html.document(self.name(workdir), parts).encode(), False)

    def list_page(self, runs: list[Path]) -> Page:
        """Return a table of runs, those in training first, and the curves of the first ones."""
        lives = {run: read_live(run) for run in runs}
        order = sorted(runs, key=lambda run: (RUN_STATES.index(lives[run].state), runs.index(run)))
        names = [self.name(run) for run in order]
        rows = [list_row(name, lives[run]) for name, run in zip(names, order, strict=True)]
        histories = {name: lives[run].history for name, run in zip(names, order, strict=True) if lives[run].history}
        shown = dict([*histories.items()][: figures.MAX_CURVES])
        compare = partial(figures.compared_curves, shown)
        which = f" of the first {len(shown)} of {len(histories)} runs" if len(shown) < len(histories) else ""
        charts = [
            self.chart(quantity, f"{quantity.capitalize()} after each epoch{which}", partial(compare, quantity), shown)
            for quantity in figures.QUANTITIES
            if shown
        ]
        counts = {state: sum(live.state == state for live in lives.values()) for state in RUN_STATES}
        about = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
        parts = [
            html.paragraph(f"{about}." if runs else ABOUT["not begun"]),
            html.table(LIST_HEADER, rows, "wrap long", list(map(link, order))),
            html.section("Training", html.pair(*charts)) if charts else "",
        ]
        return Page(html.document(f"{len(runs)} run{'s' * (len(runs) != 1)}", parts).encode(), False)

    def name(self, workdir: Path) -> str:
        """Return the name of a run: its path below the only folder, or else the whole path."""
        only = self.folders[0] if len(self.folders) == 1 else None
        if workdir == only:
            return escape_line(workdir.absolute().name)
        return escape_line(workdir.relative_to(only) if only else workdir)

    def chart(self, name: str, caption: str, draw: Callable[[], Figure], shown: object) -> str:
        """Return the chart called `name`, drawn only if what is `shown` has changed."""
        if name not in self.drawn or self.drawn[name][0] != shown:
            self.drawn[name] = shown, html.chart(svg(draw()), caption)
        return self.drawn[name][1]


def find_runs(folders: Sequence[Path]) -> list[Path]:
    """Return the workdirs among `folders` and below them, in the order of their names."""
    return list(dict.fromkeys(run for folder in folders for run in runs_below(folder)))


def link(workdir: Path) -> str:
    return f"/run?{quote(os.fsencode(workdir), safe='')}"  # of a path, browsers would drop a last "/."


def done_epochs(live: Live) -> float:
    """Return the number of epochs done, including the part of the one under way."""
    inside = live.progress["epoch"] - 1 + live.progress["step"] / max(live.progress["steps"], 1) if live.progress else 0
    return max(len(live.history), inside)


def share_done(live: Live) -> float:
    return min(1.0, done_epochs(live) / max(live.epochs, 1))


def time_left(live: Live) -> str:
    """Return how much longer the run will train, judging by what it last wrote."""
    if not live.progress:
        return "-"
    return duration(max(0.0, live.progress["seconds_left"] - max(0.0, time.time() - live.progress[CLOCK])))


def run_tiles(live: Live) -> list[Tile]:
    """Return how far a run is, and how fast and how good it is."""
    best, last = best_row(live.history, "val_accuracy"), live.history[-1] if live.history else {}
    tiles = [Tile("epochs done", f"{len(live.history)} of {live.epochs}", place(live))]
    if live.state == "training":
        rate = f"{live.progress['images_per_second']:,.0f}" if live.progress else "-"
        tiles += [Tile("time left", time_left(live), "without evaluation"), Tile("images per second", rate)]
    if best:
        tiles += [Tile("best validation accuracy", percent(best["val_accuracy"]), f"epoch {best['epoch']:.0f}")]
        tiles += [Tile("validation loss", decimal(last["val_loss"]), f"epoch {last['epoch']:.0f}")]
    row, when = last, f"epoch {last['epoch']:.0f}" if last else ""
    if is_within_epoch(live):
        row = {f"train_{name}": live.progress[name] for name in ("accuracy", "loss")}
        row, when = row | {"learning_rate": live.progress["learning_rate"]}, "this epoch so far"
    tiles += [Tile("training accuracy", percent(row.get("train_accuracy")), when + ", mixed images" * live.mixes)]
    tiles += [Tile("training loss", decimal(row.get("train_loss")), when)]
    return [*tiles, Tile("learning rate", f"{row['learning_rate']:.3g}" if row else "-", when)]


def is_within_epoch(live: Live) -> bool:
    """Return whether the progress is that of an unfinished epoch."""
    return bool(live.progress) and live.progress["epoch"] > len(live.history)


def place(live: Live) -> str:
    """Return what a run is doing, as a note."""
    if is_within_epoch(live):
        at = live.progress
        return f"epoch {at['epoch']:.0f}, step {at['step']:,.0f} of {at['steps']:,.0f}"
    if live.state != "training" or live.progress:
        return ""
    if len(live.history) >= live.epochs:
        return "evaluating"
    return "compiling or evaluating" if live.history else "compiling"  # a run may stop early


def list_row(name: str, live: Live) -> list[str]:
    last, best = live.history[-1] if live.history else {}, best_row(live.history, "val_accuracy") or {}
    epochs = f"{done_epochs(live):.1f}" if live.progress else str(len(live.history))
    return [
        name,
        live.state,
        f"{epochs} of {live.epochs}",
        time_left(live),
        percent(best.get("val_accuracy")),
        percent(last.get("train_accuracy")) + " (mixed images)" * live.mixes,
    ]
