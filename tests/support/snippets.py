"""What documents show, run as their readers would: bash stays bash, Python stays Python.

`fullconv` and `python` on the path hand their command to one process that has imported what is
heavy once, and forks for each (`Forks`): a page of twenty commands takes seconds.
"""

from __future__ import annotations

import json
import os
import re
import runpy
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r"^( *)```(\S*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
NOT_RUN = re.compile(r"<!-- not run: (.+?) -->\s*\Z", re.DOTALL)
SERVER = re.compile(r"^(?:fullconv serve|python -m http\.server)\b", re.MULTILINE)
PATIENCE = 120.0  # seconds, that a busy machine may need
CLIENT = """#!{python} -SEs
import json, os, signal, socket, sys
to = socket.socket(socket.AF_UNIX)
to.connect({address!r})
asked = {{"words": [{name!r}, *sys.argv[1:]], "folder": os.getcwd(), "env": dict(os.environ)}}
socket.send_fds(to, [json.dumps(asked).encode()], [0, 1, 2])
to.shutdown(socket.SHUT_WR)
told = to.makefile()
worker = int(told.readline())
for each in (signal.SIGINT, signal.SIGTERM):
    signal.signal(each, lambda number, _: os.kill(worker, number))
sys.exit(int(told.readline() or 70))
"""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        line: of its first fence, from 1.
        language: the word after the fence.
        text: without the fences and their indentation.
        reason: why it is not run, as a comment before it says; None: it is.
    """

    page: Path
    line: int
    language: str
    text: str
    reason: str | None

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    """Yield the fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    for found in FENCE.finditer(text):
        before = text[: found.start()]
        reason = NOT_RUN.search(before)
        yield Block(
            page,
            before.count("\n") + 1,
            found[2],
            textwrap.dedent(found[3]),
            " ".join(reason[1].split()) if reason else None,
        )


def commands(text: str) -> Iterator[str]:
    """Yield the lines of a bash block, those joined that a backslash continues."""
    yield from filter(None, map(str.strip, text.replace("\\\n", " ").splitlines()))


@dataclass
class Session:
    """A page's commands, one block after the other in one folder; servers stay until its end."""

    folder: Path
    environment: Mapping[str, str]
    port: int

    def __post_init__(self) -> None:
        self.servers: list[subprocess.Popen[str]] = []

    def run(self, block: Block, text: str) -> None:
        """Run a block, as `text`; fail with what it said unless all of its commands succeed."""
        if block.language == "python":
            (self.folder / ".block.py").write_text(text, encoding="utf-8")
            words = ["python", ".block.py"]
        else:
            words = ["bash", "-euo", "pipefail", "-c", text]
        process = subprocess.Popen(
            words,
            cwd=self.folder,
            env=dict(self.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        if SERVER.search(text):
            self.servers.append(process)
            self._await(process)
            return
        try:
            said, _ = process.communicate(timeout=PATIENCE)
        finally:
            _end(process)
        assert process.returncode == 0, f"{block}: exit code {process.returncode}\n{text}\n{said}"

    def _await(self, process: subprocess.Popen[str]) -> None:
        """Wait until a server listens."""
        until = time.monotonic() + PATIENCE
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < until
            time.sleep(0.02)

    def close(self) -> None:
        """End the servers as Ctrl-C would."""
        for server in self.servers:
            _end(server)


def _end(process: subprocess.Popen[str]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=10)
            return


def free_port() -> int:
    """Return a port of the loopback address that nobody listens at."""
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        port: int = own.getsockname()[1]
        return port


class Forks:
    """A process that has imported torch, and runs each command in a fork of itself."""

    def __init__(self, folder: Path) -> None:
        self.bin, address = folder / "bin", str(folder / "socket")
        self.bin.mkdir()
        for name in ("fullconv", "python"):
            path = self.bin / name
            path.write_text(CLIENT.format(python=sys.executable, address=address, name=name))
            path.chmod(0o755)
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        words = [sys.executable, __file__, address]
        self._process = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"listening\n"

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()


@contextmanager
def forks(folder: Path) -> Iterator[Forks]:
    """Start the process that forks, and end it."""
    started = Forks(folder)
    try:
        yield started
    finally:
        started.close()


def _serve(address: str) -> None:
    """Fork for each client, for as long as this process lives."""
    import torchvision  # noqa: F401

    import fullconv.cli
    import fullconv.predict.run
    import fullconv.train.run  # noqa: F401

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        sys.stdout.write("listening\n")
        sys.stdout.flush()
        while True:
            client, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                _work(client)
            client.close()


def _work(client: socket.socket) -> None:
    """Be the process that a client asked for; never return."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    text, descriptors, *_ = socket.recv_fds(client, 1 << 20, 3)
    while more := client.recv(1 << 20):
        text += more
    client.sendall(f"{os.getpid()}\n".encode())
    asked = json.loads(text)
    for own, theirs in enumerate(descriptors):
        os.dup2(theirs, own)
        os.close(theirs)
    sys.stdout, sys.stderr = (
        open(own, "w", encoding="utf-8", buffering=1, closefd=False)  # noqa: SIM115
        for own in (1, 2)
    )
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["env"])
    code = 1
    try:
        _run(*asked["words"])
        code = 0
    except SystemExit as stopped:
        code = stopped.code if isinstance(stopped.code, int) else int(stopped.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        client.sendall(f"{code}\n".encode())
        os._exit(code)


def _run(name: str, *words: str) -> None:
    if name == "fullconv":
        sys.argv = ["fullconv", *words]
        runpy.run_module("fullconv", run_name="__main__")
    elif words[0] == "-m":
        sys.argv = list(words[1:])
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = list(words)
        runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    _serve(sys.argv[1])
