from __future__ import annotations

from pathlib import Path

from fullconv.base.remote_files import Remote
from fullconv.predict.batches import MOST_BYTES, MOST_IMAGES, batches
from fullconv.predict.jobs import Job


def jobs(*sizes):
    return [
        Job(Remote(f"s3://a/{at}.jpg", size), str(at), Path("out")) for at, size in enumerate(sizes)
    ]


def sizes(found):
    return [[job.source.size for job in batch] for batch in found]


def test_images_of_like_sizes_are_together_and_the_largest_first():
    found = sizes(batches(jobs(*[1, 9, 5] * 16), 1))
    flat = [size for batch in found for size in batch]
    assert flat == sorted(flat, reverse=True)
    assert {len(batch) for batch in found} == {6}  # eight for the actor


def test_batches_are_bounded():
    found = batches(jobs(*[10] * 1000), 1)
    assert max(map(len, found)) == MOST_IMAGES
    half = MOST_BYTES // 2
    assert sizes(batches(jobs(*[half] * 5, 2 * MOST_BYTES, *[3] * 30), 1))[:3] == [
        [2 * MOST_BYTES],
        [half, half],
        [half, half],
    ]


def test_each_image_is_in_one_batch(tmp_path):
    (tmp_path / "large.png").write_bytes(b"1234")
    given = [
        *jobs(None, None, 3),
        Job(tmp_path / "large.png", "large", Path("out")),
        Job(tmp_path / "none.png", "none", Path("out")),
    ]
    found = [job for batch in batches(given, 4) for job in batch]
    assert [job.name for job in found] == ["large", "2", "0", "1", "none"]
