from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fullconv.base.errors import FullconvError
from fullconv.predict.pool import READING, Node, pool_for


@given(cpus=st.integers(1, 256), nodes=st.integers(1, 8))
def test_two_actors_find_room_on_a_node_and_leave_some_to_reading(cpus, nodes):
    """Where a node dies, its actor moves to another one."""
    pool = pool_for([Node(cpus)] * nodes)
    assert (pool.actors, pool.a_node) == (nodes, 1)
    assert 2 * pool.cpus + pool.readers / nodes * READING <= cpus
    assert pool.cpus < 1 or pool.cpus == int(pool.cpus)  # what Ray takes


def test_more_actors_share_the_cpus_of_a_node():
    pool = pool_for([Node(8), Node(8)], 4)
    assert (pool.actors, pool.a_node, pool.cpus) == (4, 2, 1)
    assert pool_for([Node(2), Node(2), Node(0)]).actors == 2


@pytest.mark.parametrize(("asked", "most"), [(5, 4), (100, 4)])
def test_a_pool_that_would_starve_reading_is_refused(asked, most):
    told = rf"{asked} actors would leave no CPU .* have 2, 2 CPUs; give --actors {most} at most"
    with pytest.raises(FullconvError, match=told):
        pool_for([Node(2), Node(2)], asked)
    assert pool_for([Node(2), Node(2)], most).actors == most


def test_an_actor_a_gpu():
    pool = pool_for([Node(16, 2), Node(16, 2), Node(4)], gpus=True)
    assert (pool.actors, pool.a_node, pool.gpus) == (4, 2, 1.0)
    with pytest.raises(FullconvError, match="no node of the Ray cluster has a CPU and a GPU"):
        pool_for([Node(4)], gpus=True)
    with pytest.raises(FullconvError, match="has a CPU"):
        pool_for([Node(0)])
