"""The classifiers of Caffe's model zoo: fetched once, verified, and every one of the paper's."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace

import pytest
import torch
from file_server import serving
from narrow_caffe import refusal

from fullconv.base.download import Checksum, WebFile
from fullconv.net.weights import caffe_zoo as zoo
from fullconv.papers.blueprint import PAPER_NETS

# The zoo ------------------------------------------------------------------------------------------


@pytest.fixture
def zoo_of_one(tmp_path, monkeypatch):
    """Publish a caffemodel as caffe:googlenet on localhost; give the server and torch's cache."""
    contents = bytes(range(256)) * 9000
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(zoo, "PAUSES", ())
    with serving(files={"/g.caffemodel": contents}) as server:
        checksum = Checksum("sha1", hashlib.sha1(contents).hexdigest(), "its page")
        known = WebFile("g.caffemodel", (f"{server.address}/g.caffemodel",), 2, checksum)
        monkeypatch.setattr(zoo, "ZOO", {"caffe:googlenet": known})
        yield server, tmp_path / "checkpoints" / "g.caffemodel"


def test_pretrained_is_fetched_once_and_verified(zoo_of_one):
    server, path = zoo_of_one
    assert zoo.pretrained("caffe:googlenet") == path
    assert path.read_bytes() == server.files["/g.caffemodel"]
    assert zoo.pretrained("caffe:googlenet") == path
    assert len(server.requests) == 1 and list(path.parent.iterdir()) == [path]
    path.write_bytes(b"another")
    assert "remove the file" in refusal(zoo.pretrained, "caffe:googlenet")
    assert "caffe:googlenet" in refusal(zoo.pretrained, "caffe:resnet")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"files": {"/g.caffemodel": b"another"}}, "gave a file of sha1"),
        ({"files": {}}, "404"),
        ({"breaks": [0]}, "broke off"),
        ({"content_type": "text/html"}, "web page"),
    ],
)
def test_what_cannot_be_fetched_is_told_with_what_to_do(zoo_of_one, change, reason):
    server, path = zoo_of_one
    for attribute, value in change.items():
        setattr(server, attribute, value)
    told = refusal(zoo.pretrained, "caffe:googlenet")
    known = zoo.ZOO["caffe:googlenet"]
    assert told.startswith("no pretrained weights of caffe:googlenet: ") and reason in told
    assert known.addresses[0] in told and f"save it as {path} ({known.checksum})" in told
    assert told.endswith("or pass --weights FILE.caffemodel")
    assert not path.exists()


def test_no_network(zoo_of_one, monkeypatch):
    _, path = zoo_of_one
    known = replace(zoo.ZOO["caffe:googlenet"], addresses=("http://127.0.0.1:9/g.caffemodel",))
    monkeypatch.setattr(zoo, "ZOO", {"caffe:googlenet": known})
    told = refusal(zoo.pretrained, "caffe:googlenet")
    assert "Connection refused" in told and f"save it as {path}" in told


def test_the_zoo_has_every_classifier_of_the_papers_nets():
    assert set(zoo.ZOO) == {net.backbone for net in PAPER_NETS.values()}
    assert all(re.fullmatch("[0-9a-f]{40}", each.checksum.digest) for each in zoo.ZOO.values())
