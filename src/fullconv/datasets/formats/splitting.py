"""Dividing images into train, val and test, so that each has its share of each class."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Mapping

from fullconv.base.errors import FullconvError
from fullconv.data.folder import SPLITS

Shares = tuple[float, float, float]  # of train, val and test; their sum is 1


def parse_shares(text: str) -> Shares:
    """Return the shares of a text such as "0.8,0.1,0.1".

    Raises:
        FullconvError: they are no three numbers from 0, whose sum is 1 and of which train has some.
    """
    try:
        train, val, test = (float(word) for word in text.split(","))
    except ValueError:
        train = val = test = -1
    if min(train, val, test) < 0 or not train or abs(train + val + test - 1) > 1e-6:
        raise FullconvError(
            f"--split {text}: give the shares of train, val and test, whose sum is 1, such as "
            "0.8,0.1,0.1"
        )
    return train, val, test


def parse_pattern(text: str | None) -> re.Pattern[str] | None:
    """Return the pattern of --group-by.

    Raises:
        FullconvError: it is no regular expression.
    """
    try:
        return None if text is None else re.compile(text)
    except re.error as error:
        raise FullconvError(f"--group-by {text}: is no regular expression ({error})") from None


def divide(
    images: Mapping[str, Collection[int]],
    shares: Shares,
    seed: int = 0,
    group_by: re.Pattern[str] | None = None,
) -> dict[str, str]:
    """Return the split of each image.

    Groups are dealt out class by class, the rarest first, each to the split that lacks most of the
    class (Sechidis and others, On the stratification of multi-label data, 2011).

    Args:
        images: the classes that each has, by SPLIT/NAME as it was before.
        shares: of train, val and test.
        seed: another seed, another choice; the order of the images changes nothing.
        group_by: images stay together in whose names it finds the same: in its first group, or in
            all of it.
    """
    groups: dict[str, list[str]] = {}
    for name in sorted(images):
        groups.setdefault(_group(name, group_by), []).append(name)
    having = {group: _classes(names, images) for group, names in groups.items()}
    wanted = [
        Counter({each: share * count for each, count in _classes(sorted(images), images).items()})
        for share in shares
    ]
    left = set(groups)
    split_of: dict[str, str] = {}
    while left:
        remaining = Counter(each for group in left for each in having[group] if each >= 0)
        rarest = min(remaining, key=lambda each: (remaining[each], each), default=_ANY)
        dealt = [group for group in left if rarest in having[group]]
        for group in sorted(dealt, key=lambda group: (-having[group][rarest], _rank(group, seed))):
            best = max(
                (at for at, share in enumerate(shares) if share),
                key=lambda at: (wanted[at][rarest], wanted[at][_ANY], -at),
            )
            wanted[best].subtract(having[group])
            split_of |= dict.fromkeys(groups[group], SPLITS[best])
        left -= set(dealt)
    return split_of


_ANY = -1  # a class that every image has


def _classes(names: Collection[str], images: Mapping[str, Collection[int]]) -> Counter[int]:
    counts: Counter[int] = Counter({_ANY: len(names)})
    for name in names:
        counts.update(images[name])
    return counts


def _group(name: str, pattern: re.Pattern[str] | None) -> str:
    found = pattern.search(name.partition("/")[2]) if pattern else None
    if found is None:
        return f"\0{name}"  # a group of its own
    return found[1] or "" if found.re.groups else found[0]


def _rank(group: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed} {group}".encode()).digest()
