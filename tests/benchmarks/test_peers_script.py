"""benchmarks/accuracy/peers.py: the peers are what they should be; a tiny comparison runs."""

from __future__ import annotations

import csv
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torchvision import tv_tensors

from fullconv.base.errors import FullconvError

PACKAGES = ("segmentation_models_pytorch", "albumentations")
CLASSES = ("grass", "sand", "water")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(map(find_spec, PACKAGES)), reason=f"needs {', '.join(PACKAGES)}; see peers.py"
    ),
]


@pytest.fixture
def training() -> ModuleType:
    return import_module("benchmarks.accuracy.peer_training")


@pytest.fixture(scope="module")
def classifier() -> nn.Module:
    """A MobileNetV2 with statistics of its own, so that each of them is seen in its features."""
    torch.manual_seed(0)
    net = torchvision.models.mobilenet_v2(weights=None)
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_mean, -0.1, 0.1)
            nn.init.uniform_(layer.running_var, 0.9, 1.1)
    return net.eval()


@pytest.fixture(scope="module")
def weights(classifier: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The classifier's weights in a file, with a preprocessing that is nobody's default."""
    path = tmp_path_factory.mktemp("weights") / "mobilenet_v2.safetensors"
    save_file(
        classifier.state_dict(),
        path,
        {
            "architecture": "torchvision mobilenet_v2",
            "mean": "[0.5, 0.5, 0.5]",
            "std": "[0.25, 0.25, 0.25]",
        },
    )
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset folder of nine images 72x96 whose colours are their labels, some of them 255."""
    root = tmp_path_factory.mktemp("data") / "meadow"
    random = np.random.default_rng(0)
    for split, count in {"train": 5, "val": 2, "test": 2}.items():
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True)
        for index in range(count):
            coarse = random.integers(0, 3, (3, 4), dtype=np.uint8)
            labels = coarse.repeat(24, 0).repeat(24, 1)
            image = np.eye(3, dtype=np.uint8)[labels] * 200
            labels[:4] = 255
            Image.fromarray(image).save(root / "images" / split / f"{index}.png")
            Image.fromarray(labels).save(root / "masks" / split / f"{index}.png")
    (root / "dataset.yaml").write_text(f"name: meadow\nclasses: [{', '.join(CLASSES)}]\n")
    return root


@pytest.mark.parametrize("architecture", ["Unet", "FPN", "DeepLabV3Plus"])
def test_the_encoder_is_the_classifier(
    training: ModuleType, classifier: nn.Module, weights: Path, architecture: str
) -> None:
    peer = training.Peer(architecture, 3, weights).eval()
    images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    values = (images / 255 - 0.5) / 0.25
    kept = [1, 3, 6, 13, 18]  # the last layers of MobileNetV2 at strides 2, 4, 8, 16 and 32
    seen: list[torch.Tensor] = []
    x = values
    with torch.inference_mode():
        for index, layer in enumerate(classifier.features):
            x = layer(x)
            seen += [x] if index in kept else []
        found = peer.net.encoder(peer.preprocessing(images))[1:]
        scores = peer(images)
    shallow = 4 if architecture == "DeepLabV3Plus" else 5  # it dilates the last stage
    for mine, theirs in zip(seen[:shallow], found, strict=False):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)
    assert scores.shape == (1, 3, 64, 64)


def test_weights_of_another_classifier_are_refused(
    training: ModuleType, classifier: nn.Module, tmp_path: Path
) -> None:
    state = classifier.state_dict()
    del state["features.5.conv.0.0.weight"]
    save_file(state, tmp_path / "less.safetensors")
    with pytest.raises(FullconvError, match=r"lacks features\.5\.conv\.0\.0\.weight"):
        training.Peer("Unet", 3, tmp_path / "less.safetensors")


def test_labels_lie_where_the_image_is(training: ModuleType, weights: Path) -> None:
    """A net that copies its input's channels shows what padding and cropping do."""
    peer = training.Peer("FPN", 3, weights).eval()
    peer.net = nn.Identity()
    for size in ((64, 96), (37, 50), (1, 33), (5, 2)):
        labels = np.random.default_rng(0).integers(0, 3, size, dtype=np.uint8)
        image = np.eye(3, dtype=np.uint8)[labels] * 255
        np.testing.assert_array_equal(peer.label(image), labels)


@pytest.mark.parametrize("loss", ["dice", "dice+ce", "ce"])
def test_ignored_pixels_do_not_count(training: ModuleType, loss: str) -> None:
    function = training.Practice(loss=loss).loss_function(255)
    torch.manual_seed(0)
    scores = torch.randn(2, 3, 8, 8, requires_grad=True)
    truth = torch.randint(0, 3, (2, 8, 8))
    truth[:, :3] = 255
    (gradient,) = torch.autograd.grad(function(scores, truth), scores)
    assert gradient[:, :, :3].abs().max() == 0
    assert gradient[:, :, 3:].abs().min() > 0


def test_the_learning_rate_is_that_of_torchs_cosine(training: ModuleType) -> None:
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([parameter], lr=2e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20, eta_min=1e-5)
    for step in range(20):
        expected = schedule.get_last_lr()[0]
        assert training.Practice().learning_rate(step / 20) == pytest.approx(expected)
        optimizer.step()
        schedule.step()


def test_tuned_peers_learn_by_adamw_and_one_cycle(training: ModuleType) -> None:
    practice = training.Practice.tuned()
    rates = [practice.learning_rate(done) for done in (0, 0.1, 0.55, 1)]
    assert rates == pytest.approx([1e-3 / 25, 1e-3, 5e-4, 0])
    optimizer = practice.optimizer(nn.Linear(2, 3))
    assert type(optimizer) is torch.optim.AdamW
    assert [(group["factor"], group["lr"]) for group in optimizer.param_groups] == [(1.0, 1e-3)]
    image, mask = torch.zeros(3, 50, 60, dtype=torch.uint8), torch.zeros(1, 50, 60)
    view = practice.views((32, 64), 255)
    moved, moved_mask = view(tv_tensors.Image(image), tv_tensors.Mask(mask.byte()))
    assert (moved.shape, moved_mask.shape) == ((3, 32, 64), (1, 32, 64))


def test_views_keep_labels_on_their_pixels(training: ModuleType) -> None:
    """Without changes of colour, the view of an image that shows its labels shows theirs."""
    augmentation = training.Augmentation((64, 96), 255)
    torch.manual_seed(0)
    labels = torch.randint(0, 3, (1, 4, 5), dtype=torch.uint8)
    labels = labels.repeat_interleave(20, 1).repeat_interleave(20, 2)
    image = (labels * 100).expand(3, -1, -1)
    agreeing, ignored = [], []
    for _ in range(40):
        pixels, mask = augmentation(image, labels)
        assert pixels.shape == (3, 64, 96)
        assert pixels.dtype == mask.dtype == torch.uint8
        assert mask.shape == (1, 64, 96)
        assert set(mask.unique().tolist()) <= {0, 1, 2, 255}
        ignored.append(float((mask == 255).float().mean()))
        known = mask[0] < 255
        order = np.corrcoef(pixels.float().mean(0)[known], mask[0][known])[0, 1]
        agreeing.append(order)
    assert min(agreeing) > 0.6
    assert 0 < np.mean(ignored) < 0.6


def test_a_seed_decides_on_a_view(training: ModuleType) -> None:
    augmentation = training.Augmentation((64, 64), 255)
    image = torch.randint(0, 256, (3, 80, 90), dtype=torch.uint8)
    views = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        views.append(augmentation(image, image[:1] % 3)[0])
    assert torch.equal(views[0], views[1])
    assert not torch.equal(views[0], views[2])


def test_a_missing_package_is_told(training: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "albumentations", None)
    with pytest.raises(FullconvError, match="albumentations is not installed: pip install"):
        training.package("albumentations")


def test_a_comparison(
    data: Path,
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    peers, frame = (import_module(f"benchmarks.{each}") for each in ("accuracy.peers", "frame"))
    monkeypatch.setattr(frame, "RESULTS", tmp_path / "results")
    words = f"--data {data} --weights {weights} --minutes 0.02 --out {tmp_path / 'runs'}"
    command = ["peers.py", *words.split(), "--nets"]
    monkeypatch.setattr(sys, "argv", [*command, "Unet"])
    peers.main()
    monkeypatch.setattr(sys, "argv", [*command, "Unet", "fullconv"])
    peers.main()
    assert "Unet: is in peers-meadow.csv already" in capsys.readouterr().out
    with (tmp_path / "results" / "peers-meadow.csv").open() as file:
        unet, own = csv.DictReader(file)
    assert (unet["net"], unet["training"]) == ("Unet", "dice lr=0.0002")
    assert (own["net"], own["training"]) == ("fullconv", "defaults")
    for row in (unet, own):
        ious = [float(row[f"iu_{name}"]) for name in CLASSES]
        assert float(row["test_mean_iu"]) == pytest.approx(np.nanmean(ious), abs=1e-3)
        assert float(row["epochs"]) >= 1
        assert float(row["inference_ms"]) > 0
    assert float(unet["parameters_m"]) == pytest.approx(6.63, abs=0.01)
