"""Which actors a cluster has room for, so that reading and writing are never starved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fullconv.base.errors import FullconvError

READING = 0.1  # of a CPU, for each task that reads files: it waits most of the time
CPUS_A_READER = 4  # of a node, for each such task; each node has one
MOST_READERS = 8  # of a node: together less than a CPU


@dataclass(frozen=True)
class Node:
    """A machine of a cluster.

    Attributes:
        cpus: what the cluster may use of it.
        gpus: likewise.
    """

    cpus: float
    gpus: float = 0.0


@dataclass(frozen=True)
class Pool:
    """Actors that label images, each with a net of its own.

    An actor computes with all the CPUs of its node (or its part of them), but reserves less than
    half of those. So CPUs are left to reading and writing; and where a node dies, its actors find
    room on the others.

    Attributes:
        actors: how many.
        a_node: how many of them share a node.
        cpus: that each reserves.
        gpus: likewise.
        readers: how many tasks read files.
    """

    actors: int
    a_node: int
    cpus: float
    gpus: float
    readers: int


def pool_for(nodes: Sequence[Node], actors: int | None = None, *, gpus: bool = False) -> Pool:
    """Return the pool for a cluster: an actor a node, or a GPU, unless asked otherwise.

    Args:
        nodes: of the cluster.
        actors: how many are asked for.
        gpus: whether each takes a GPU.

    Raises:
        FullconvError: there is no room for them beside reading and writing.
    """
    able = [node for node in nodes if node.cpus >= 1 and (node.gpus >= 1 or not gpus)]
    if not able:
        what = "a CPU and a GPU" if gpus else "a CPU"
        raise FullconvError(f"no node of the Ray cluster has {what}; start one that has")
    most = sum(int(min(node.cpus, node.gpus) if gpus else node.cpus) for node in able)
    asked = actors or (sum(int(node.gpus) for node in able) if gpus else len(able))
    a_node = -(-asked // len(able))
    own = min(node.cpus for node in able) / a_node
    if asked > most or own < 1:
        cpus = ", ".join(f"{node.cpus:g}" for node in able)
        least = int(min(node.cpus for node in able)) * len(able)
        raise FullconvError(
            f"{asked} actors would leave no CPU to reading and writing: the nodes of the Ray "
            f"cluster have {cpus} CPUs; give --actors {min(most, least)} at most"
        )
    readers = sum(min(MOST_READERS, max(1, int(node.cpus) // CPUS_A_READER)) for node in able)
    return Pool(asked, a_node, _reserved(own), float(gpus), readers)


def _reserved(cpus: float) -> float:
    """Return what an actor of so many CPUs reserves: twice that still leaves some.

    Ray takes whole numbers, or parts of one.
    """
    whole = int(cpus)
    return (whole - 1) // 2 if whole >= 3 else 0.9 if whole == 2 else 0.4
