"""`fullconv serve` under load, against `fullconv predict` on the same files.

    python -m benchmarks.speed.serve [--model MODEL] [--photos CAMVID/images/test] [--seconds 60]

`predict` labels the photos; then 64 clients of another process, each on a connection of its own,
send them to a server on the loopback address again and again for a minute, whose memory is read
every half second. Both work by the same engine.

Expected: every answer is 200 or 503; memory in the last sixth of the time is within 5 % of that in
the first one; at least 0.85 times as many photos a second as `predict`. Else it exits 1.
Results: benchmarks/results/serve.csv and serve-machine.json.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, quantiles

from benchmarks.frame import Results, arguments, in_own_process
from benchmarks.speed.predict import drawn, untrained

MODULE = "benchmarks.speed.serve"
CLIENTS, SECONDS, PHOTOS, ROUNDS = 64, 60.0, 32, 8
WARMING = 3.0  # seconds of load that are not counted: threads, connections and caches come to be
ANSWERED, BUSY = 200, 503
MEMORY, THROUGHPUT = 0.05, 0.85


def main() -> None:
    """Measure both, print and write them."""
    parser = arguments(__doc__)
    parser.add_argument("--model", type=Path, help="a model folder")
    parser.add_argument("--photos", type=Path, help="a folder of JPEGs")
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--clients", type=int, default=CLIENTS)
    parser.add_argument("--engine", default="openvino")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--queue", type=int, default=64)
    parser.add_argument("--client", nargs=2, help="for the other process: port and folder")
    asked = parser.parse_args()
    if asked.client:
        load = Load(asked.clients, asked.seconds)
        print(json.dumps(asdict(asyncio.run(load.all(int(asked.client[0]), asked.client[1])))))
        return
    with tempfile.TemporaryDirectory() as folder:
        model = asked.model or Path(folder) / "model"
        if not asked.model:
            untrained().save_pretrained(model)
        sources = sorted((asked.photos or drawn(Path(folder))).rglob("*.jpg"))[:PHOTOS]
        photos = Path(folder) / "photos"
        photos.mkdir()
        for index in range(ROUNDS * len(sources)):  # so many that starting counts little
            source = sources[index % len(sources)]
            (photos / f"{index}.jpg").write_bytes(source.read_bytes())
        words = ["--engine", asked.engine, "--precision", asked.precision]
        predicted = predict(model, photos, Path(folder) / "out", words)
        limits = ["--batch", str(asked.batch), "--queue", str(asked.queue)]
        with server(model, [*words, *limits]) as (port, process):
            found, memory = load_of(port, photos, process, asked.clients, asked.seconds)
    report(predicted, found, memory, words, asked.seconds)


def predict(model: Path, photos: Path, out: Path, words: Sequence[str]) -> float:
    """Return how many photos a second `fullconv predict` does, start-up left out.

    That is the difference between two runs: of all photos and of one.
    """

    def seconds(inputs: str) -> float:
        begun = time.perf_counter()
        verb = ["predict", str(model), inputs, "--out", str(out), "--quiet", *words]
        command = [sys.executable, "-m", "fullconv", *verb]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - begun

    seconds(str(photos / "0.jpg"))  # whatever is compiled or noted once
    return (len(list(photos.iterdir())) - 1) / (
        seconds(str(photos)) - seconds(str(photos / "0.jpg"))
    )


@contextmanager
def server(model: Path, words: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Run `fullconv serve`; yield its port and its process's id."""
    command = [sys.executable, "-m", "fullconv", "serve", str(model), "--port", "0", *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            address = next(re.search(r"http://[^:]+:(\d+)", line) for line in process.stderr)
            assert address is not None
            threading.Thread(target=process.stderr.read, daemon=True).start()  # a full pipe blocks
            yield int(address[1]), process.pid
        finally:
            process.terminate()


def load_of(
    port: int, photos: Path, process: int, clients: int, seconds: float
) -> tuple[Found, list[float]]:
    """Put load on a server; return what came of it, and its memory in MiB meanwhile."""
    memory: list[float] = []
    ended = threading.Event()

    def watch() -> None:
        ended.wait(WARMING)
        while not ended.wait(0.5):
            memory.append(resident(process))

    watching = threading.Thread(target=watch)
    watching.start()
    words = ["--clients", str(clients), "--seconds", str(seconds)]
    line = in_own_process(MODULE, *words, "--client", str(port), str(photos))
    ended.set()
    watching.join()
    return Found(**json.loads(line)), memory


def resident(process: int) -> float:
    """Return a process's resident memory in MiB."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@dataclass
class Found:
    """What clients saw.

    Attributes:
        statuses: how many answers there were of each; "0": none came.
        seconds: that it took.
        latencies: milliseconds of the answers that were 200: p50, p99 and the longest.
    """

    statuses: dict[str, int]
    seconds: float
    latencies: tuple[float, float, float]


class Load:
    """Clients that ask again and again; plain, since they run on the server's own cores."""

    def __init__(self, clients: int, seconds: float) -> None:
        self._clients, self._seconds = clients, seconds
        self._statuses = Counter[str]()
        self._latencies: list[float] = []

    async def all(self, port: int, folder: str) -> Found:
        """Ask; return what came of it, without what came while all was warming."""
        photos = [path.read_bytes() for path in sorted(Path(folder).iterdir())]
        begun = time.perf_counter() + WARMING
        clients = (self._client(port, photos, index, begun) for index in range(self._clients))
        await asyncio.gather(*clients)
        spent = time.perf_counter() - begun
        cuts = quantiles(self._latencies, n=100)
        return Found(dict(self._statuses), spent, (cuts[49], cuts[98], max(self._latencies)))

    async def _client(self, port: int, photos: list[bytes], index: int, begun: float) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (now := time.perf_counter()) < begun + self._seconds:
            photo = photos[index % len(photos)]
            index += self._clients + 1
            writer.write(
                b"POST /v1/segment HTTP/1.1\r\nHost: here\r\nAccept: image/png\r\n"
                b"Content-Length: %d\r\n\r\n%b" % (len(photo), photo)
            )
            status = await _status(reader)
            if now >= begun:
                self._statuses[str(status)] += 1
                if status == ANSWERED:
                    self._latencies.append((time.perf_counter() - now) * 1e3)
            if status == BUSY:
                await asyncio.sleep(1)  # as Retry-After says
            if not status:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()


async def _status(reader: asyncio.StreamReader) -> int:
    """Read an answer whole; return its status, 0 where the connection broke."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        await reader.readexactly(int(length[1]) if length else 0)
        return int(head.split(None, 2)[1])
    except (asyncio.IncompleteReadError, ConnectionError):
        return 0


def report(
    predicted: float, found: Found, memory: list[float], words: Sequence[str], seconds: float
) -> None:
    """Print and write what was found; exit 1 where it is not as expected."""
    sixth = max(1, len(memory) // 6)
    first, last = mean(memory[:sixth]), mean(memory[-sixth:])
    served = found.statuses.get(str(ANSWERED), 0) / found.seconds
    others = {
        status: count
        for status, count in found.statuses.items()
        if status not in (str(ANSWERED), str(BUSY))
    }
    Results("serve").add(
        {"engine": words[1], "precision": words[3], "seconds": f"{seconds:.0f}"},
        {
            "predict_a_second": f"{predicted:.1f}",
            "served_a_second": f"{served:.1f}",
            "of_predict": f"{served / predicted:.2f}",
            "p50_ms": f"{found.latencies[0]:.0f}",
            "p99_ms": f"{found.latencies[1]:.0f}",
            "longest_ms": f"{found.latencies[2]:.0f}",
            "busy": str(found.statuses.get(str(BUSY), 0)),
            "other_answers": str(sum(others.values())),
            "first_MiB": f"{first:.0f}",
            "last_MiB": f"{last:.0f}",
        },
    )
    if others or abs(last / first - 1) > MEMORY or served < THROUGHPUT * predicted:
        sys.exit(f"not as expected: {others or ''} memory x{last / first:.3f}")


if __name__ == "__main__":
    main()
