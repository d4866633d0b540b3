"""The processes that do one work together, as torchrun starts them; as a rule there is only one.

This file alone knows torch.distributed. Whoever works with others asks a `Processes`, and whoever
is alone has one, too, whose answers are its own values: nothing else asks how many there are.
"""

from __future__ import annotations

import inspect
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed import PrefixStore, Store, rendezvous  # type: ignore[attr-defined]
from torch.nn.parallel import DistributedDataParallel

from fullconv.base.errors import FullconvError, ToldElsewhereError, WorkFailedError
from fullconv.base.progress import Reporter

T = TypeVar("T")
M = TypeVar("M")

PATIENCE = timedelta(hours=12)  # the first may read a large dataset; one that dies is noticed
PATIENCE_FOR_STORE = timedelta(minutes=5)
MOST_MARKS = 2048  # of a GPU's, that wait to be read


class Traffic:
    """What this process hands the others, and how long that takes.

    Attributes:
        bytes: that it handed over.
        seconds: in which some of them were on their way, the waiting for slower processes and what
            is worked out meanwhile included.
    """

    def __init__(self) -> None:
        self.bytes, self._seconds, self._end = 0, 0.0, 0.0
        self._zero: Any = None
        self._marks: list[tuple[Any, Any]] = []

    @contextmanager
    def noted(self, values: Tensor) -> Iterator[None]:
        """Count values that the body hands over, and its time."""
        begun = self.mark(values)
        yield
        self.note(values, begun)

    def mark(self, values: Tensor) -> Any:
        """Return the present time where `values` lie: in seconds, or an event of their GPU."""
        if values.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        self._zero = self._zero or event
        return event

    def note(self, values: Tensor, begun: Any) -> None:
        """Count values whose way began at the mark `begun` and ends now."""
        self.bytes += values.nbytes
        self._marks.append((begun, self.mark(values)))
        if len(self._marks) > MOST_MARKS:
            self._read()

    @property
    def seconds(self) -> float:
        """See the class."""
        self._read()
        return self._seconds

    def _read(self) -> None:
        """Add up the spans that are marked; where they overlap, they count once."""
        for span in self._marks:
            begun, ended = map(self._read_mark, span)
            self._seconds += max(ended - max(begun, self._end), 0.0)
            self._end = max(ended, self._end)
        self._marks.clear()

    def _read_mark(self, mark: Any) -> float:
        if isinstance(mark, float):
            return mark
        mark.synchronize()
        return float(self._zero.elapsed_time(mark)) / 1000


@dataclass(frozen=True)
class Processes:
    """The processes that do one work together, seen from one of them.

    All call the same methods in the same order, but for what the first does within `first` and
    `led`: there it must call none.

    Attributes:
        rank: this one's number, from 0.
        count: how many there are.
        local: its number among those of its machine.
        here: how many its machine has.
        launch: names the command that started them; "" where none did but the user.
        restarted: whether that started them anew, after one of them had ended.
        traffic: what they exchange.
    """

    rank: int = 0
    count: int = 1
    local: int = 0
    here: int = 1
    launch: str = ""
    restarted: bool = False
    traffic: Traffic = field(default_factory=Traffic, compare=False)

    @property
    def leads(self) -> bool:
        """Whether this is the first process: it alone writes, and speaks of how the work goes."""
        return self.rank == 0

    def heard(self, reporter: Reporter) -> Reporter:
        """Return the reporter in the first process, and a mute one in the others."""
        return reporter if self.leads else Reporter(quiet=True, mute=True)

    def device(self, device: torch.device) -> torch.device:
        """Return this process's own device of the kind of `device`.

        Raises:
            FullconvError: there is none for it.
        """
        if self.count == 1 or device.type == "cpu":
            return device
        if device != torch.device("cuda"):
            raise FullconvError(
                f"{self.count} processes cannot work on {device}: --device cuda gives each a GPU "
                "of its own, --device cpu takes the cores"
            )
        if (gpus := torch.cuda.device_count()) < self.here:
            raise FullconvError(
                f"{self.here} processes, but {gpus} GPUs on this machine: start {gpus} "
                f"(--nproc-per-node {gpus}), or --device cpu"
            )
        torch.cuda.set_device(self.local)
        return torch.device("cuda", self.local)

    def block(self, count: int) -> range:
        """Return which of `count` things are this process's; those of all follow each other."""
        return range(self.rank * count // self.count, (self.rank + 1) * count // self.count)

    # The first, and those who follow it -----------------------------------------------------------

    def first(self, work: Callable[[], T]) -> T:
        """Let the first process alone do some work; return to all what it gave.

        The others wait. What it gives is passed on by pickle.

        Raises:
            ToldElsewhereError: the first failed, which raises the reason itself.
        """
        if self.count == 1:
            return work()
        told: list[Any] = [None, None]
        if self.leads:
            try:
                told = [True, work()]
            except BaseException as error:
                with suppress(RuntimeError):  # they may have left
                    dist.broadcast_object_list([False, getattr(error, "exit_code", 1)])
                raise
        dist.broadcast_object_list(told)
        done, given = told
        if not done:
            raise ToldElsewhereError(given)
        return given  # type: ignore[no-any-return]

    def led(self, lead: Callable[[], T], tell: Callable[[T], M], follow: Callable[[M], T]) -> T:
        """Let the first process make something, and the others the same of what it tells.

        Args:
            lead: makes it, in the first process.
            tell: says of what it made all that the others need.
            follow: makes the same of that, in another process.
        """
        made: list[T] = []

        def make() -> M:
            made.append(lead())
            return tell(made[0])

        told = self.first(make)
        return made[0] if made else follow(told)

    def clock(self, own: Callable[[], float]) -> Callable[[], float]:
        """Return a clock that tells all the first one's time, so that all decide alike by it."""
        if self.count == 1:
            return own

        def tell() -> float:
            now = torch.tensor(own(), dtype=torch.float64)
            dist.broadcast(now, 0)
            return now.item()

        return tell

    # Values of all --------------------------------------------------------------------------------

    def gathered(self, value: T) -> list[T]:
        """Return the values of all processes, in the order of their ranks."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        return values

    def total(self, values: Tensor) -> Tensor:
        """Return the sum of all processes' tensors of one shape, which has no gradient."""
        if self.count == 1:
            return values
        values = values.detach().clone()
        with self.traffic.noted(values):
            dist.all_reduce(values)
        return values

    def stacked(self, values: Tensor) -> Tensor:
        """Return all processes' tensors of one shape, one below the other, without gradients."""
        values = values.detach().contiguous()
        if self.count == 1:
            return values[None]
        every = [torch.empty_like(values) for _ in range(self.count)]
        with self.traffic.noted(values):
            dist.all_gather(every, values)
        return torch.stack(every)

    def joined(self, rows: Tensor) -> Tensor:
        """Return the rows of all processes, of which each may have another number.

        Gradients go to this process's own rows: each works out the others' itself.
        """
        if self.count == 1:
            return rows
        counts = self.stacked(torch.tensor([len(rows)], device=rows.device))[:, 0].tolist()
        filled = rows.detach().new_zeros(max(counts), *rows.shape[1:])
        filled[: len(rows)] = rows.detach()
        every = [each[:count] for each, count in zip(self.stacked(filled), counts, strict=True)]
        every[self.rank] = rows
        return torch.cat(every)

    # Gradients ------------------------------------------------------------------------------------

    def spread(self, module: nn.Module) -> nn.Module:
        """Return `module` such that its gradients are the sums of those of all processes."""
        if self.count == 1:
            return module
        # It means gradients of 1 x 1 or one channel, whose strides can be told in two ways.
        warnings.filterwarnings("ignore", "Grad strides do not match")
        options: dict[str, Any] = {_SYNC_BUFFERS: False}  # they are alike already
        spread = DistributedDataParallel(module, gradient_as_bucket_view=True, **options)
        spread.register_comm_hook(None, _summing(self.traffic))
        return spread

    def summing(self, module: nn.Module, *, last: bool) -> AbstractContextManager[Any]:
        """Return what a pass runs in, forward and back: gradients are summed in the last alone."""
        if last or not isinstance(module, DistributedDataParallel):
            return nullcontext()
        return module.no_sync()


ALONE = Processes()
_NAMES = inspect.signature(DistributedDataParallel).parameters
_SYNC_BUFFERS = next(  # torch 2.15 gave it a better name
    name for name in ("forward_sync_buffers", "broadcast_buffers") if name in _NAMES
)


def _summing(traffic: Traffic) -> Callable[[Any, Any], Any]:
    """Return what has DistributedDataParallel add gradients up; its own way is to average them."""

    def summed(_, bucket):  # type: ignore[no-untyped-def]  # it refuses postponed annotations
        values = bucket.buffer()
        begun = traffic.mark(values)

        def done(future: torch.futures.Future[list[Tensor]]) -> Tensor:
            traffic.note(values, begun)
            return future.value()[0]

        return dist.all_reduce(values, async_op=True).get_future().then(done)

    return summed


@contextmanager
def launched() -> Iterator[Processes]:
    """Join the processes that torchrun started, or be alone, while the body runs.

    If one of them fails, it says so and ends; so do the others, of which none says anything more.

    Raises:
        ToldElsewhereError: another process has failed, and has said why.
        WorkFailedError: another process has ended without a word.
    """
    processes = _placed()
    if processes.count == 1:
        yield processes
        return
    store = _join()
    try:
        yield processes
    except ToldElsewhereError:
        raise
    except Exception as error:
        if not _tells_first(store):
            raise ToldElsewhereError(getattr(error, "exit_code", 1)) from error
        if _is_lost(error):
            raise WorkFailedError(
                f"process {processes.rank + 1} of {processes.count}: another one has ended before "
                "the work was done; what was saved is whole: continue with --resume, and with as "
                "many processes as you like"
            ) from error
        raise
    dist.destroy_process_group()


def _placed() -> Processes:
    """Return this process's place, as torchrun tells it."""
    told, count = os.environ.get, int(os.environ.get("WORLD_SIZE", "1"))
    launch = told("TORCHELASTIC_RUN_ID", "")
    return Processes(
        rank=int(told("RANK", 0)) if count > 1 else 0,
        count=count,
        local=int(told("LOCAL_RANK", 0)),
        here=int(told("LOCAL_WORLD_SIZE", count)),
        launch=f"torchrun {os.getppid()}" if launch == "none" else launch,
        restarted=int(told("TORCHELASTIC_RESTART_COUNT", 0)) > 0,
    )


def _join() -> Store:
    """Meet the others; return where they leave notes for each other."""
    store, rank, count = next(rendezvous("env://", timeout=PATIENCE_FOR_STORE))
    # Started anew, they would find each other's former addresses in it.
    store = PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    both = torch.cuda.is_available() and dist.is_nccl_available()
    backend = "cpu:gloo,cuda:nccl" if both else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=PATIENCE)
    return store


def _tells_first(store: Store) -> bool:
    """Tell whether no other process has told of a failure yet; also where that isn't known."""
    with suppress(RuntimeError):
        return bool(store.add("told", 1) == 1)
    return True


def _is_lost(error: Exception) -> bool:
    """Tell whether an error says that another process has left."""
    kinds = dist.DistBackendError, dist.DistNetworkError, dist.DistStoreError
    return isinstance(error, kinds) or (isinstance(error, RuntimeError) and "gloo" in str(error))
