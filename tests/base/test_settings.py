"""YAML that people write, read within bounds, against PyYAML; mistakes told in one short line."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, ValidationError

from fullconv.base.settings import Line, first_mistake, read_yaml, shortened

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


def refusal(content: str | bytes) -> str:
    with pytest.raises(ValueError) as caught:
        read_yaml(content)
    (line,) = str(caught.value).splitlines()
    assert len(line) < 500
    return line


@pytest.mark.parametrize(
    "content",
    [
        "a: 1\nb: [2, 3.5, null, true, 2024-05-06]\nc: {d: e}\n",
        "base: &b {x: 1, y: 2}\nown: {<<: *b, y: 3}\nlist: [*b, *b]\n",
        "own: {<<: [{x: 1}, {x: 2, z: 4}], y: 3}\n",
        "",
        "- a\n- b\n",
        "? [1, 2]\n: 3\n".replace("? [1, 2]\n: 3", "1: 2"),
    ],
)
def test_what_is_sound_is_read_as_by_pyyaml(content: str) -> None:
    assert read_yaml(content) == yaml.safe_load(content)
    assert read_yaml(content.encode()) == yaml.safe_load(content)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("a: 1\nb: 2\n\na: 3\n", "key 'a' stands twice, in lines 1 and 4"),
        ("a: {b: 1, 'b': 2}\n", "key 'b' stands twice, in lines 1 and 1"),
        ("1: a\n0x1: b\n", "key 1 stands twice, in lines 1 and 2"),
        ("- {x: 1}\n- {y: 1,\n   y: 2}\n", "key 'y' stands twice, in lines 2 and 3"),
        ("a: &x {k: 1, k: 2}\nb: {<<: *x}\n", "key 'k' stands twice"),
        (f"{BOMB}", "more than 100,000 values, aliases counted"),
        ("a: &a [*a]", "an alias stands within what it repeats"),
        ("a: &a {b: {c: *a}}", "an alias stands within what it repeats"),
        ("[" * 3000, "nested deeper than 32"),
        ("[" * 40 + "]" * 40, "nested deeper than 32"),
        ("{a: " * 40 + "1" + "}" * 40, "nested deeper than 32"),
        ("- " * 3000 + "1", "nested deeper than 32"),
        ("a: [", "expected the node content, but found '<stream end>' (line 1, column 5)"),
        ("a: *b", "undefined alias"),
        ("a: 2024-99-99", "a value is not what it says it is"),
        ("a: !!int ''", "a value is not what it says it is"),
        ("a: !!bool x", "a value is not what it says it is"),
        ("a: !!python/object:os.system {}", "could not determine a constructor"),
        ("? [1, 2]\n: 3\n", "found unhashable key"),
        (b"\xff\xfe\x00", "unacceptable character"),
        ("a: b\0", "special characters are not allowed"),
        ("a" * (1 << 23), "larger than 4 MiB"),
        ("a: 1\n---\nb: 2\n", "found another document"),
    ],
)
def test_what_is_refused_and_how(content: str | bytes, told: str) -> None:
    assert told in refusal(content)


@settings(max_examples=150, deadline=None)
@given(st.text(st.sampled_from("ab:-[]{}&*!<>?|'\"#%@, \n\t019.~é\ud800\x00"), max_size=40))
def test_any_text_is_read_or_refused_in_a_line(content: str) -> None:
    try:
        read_yaml(content)
    except ValueError as error:
        assert len(str(error).splitlines()) == 1


@pytest.mark.slow
def test_many_values_are_read() -> None:
    content = yaml.safe_dump({"a": list(range(20_000))})
    assert read_yaml(content) == {"a": list(range(20_000))}


class Thing(BaseModel):
    model_config = ConfigDict(extra="forbid")

    names: tuple[Line, ...] = ()
    sizes: dict[str, tuple[int, int]] = {}


def mistake(values: object):
    with pytest.raises(ValidationError) as caught:
        Thing.model_validate(values)
    return first_mistake(caught.value)


def test_a_mistake_is_told_by_its_key() -> None:
    assert mistake({"sizes": {"a": (1, "x")}}).key == "sizes.a[1]"
    assert (
        str(mistake({"names": ["a", 3]})) == "names[1]: should be text but is 3; put it in quotes"
    )
    assert str(mistake(3)).startswith("the whole: ")
    assert mistake({"size": 1}).kind == "extra_forbidden"


@pytest.mark.parametrize("bad", ["a\nb", "a\x1b[31m", "a\u2028", "\x00", "a\x85"])
def test_names_fit_in_a_line(bad: str) -> None:
    told = str(mistake({"names": ["fine", bad]}))
    assert told.startswith("names[1]: ") and "no character that can be shown" in told
    assert told.isprintable()


def test_half_a_character_is_refused() -> None:
    told = str(mistake({"names": [read_yaml('"\\ud800"')]}))
    assert "surrogate" in told or "no character" in told
    assert told.isprintable()


@pytest.mark.parametrize("name", ["road", "Straße", "道路", "car [old]", "a b", "👩\u200d🌾"])
def test_other_names_are_kept(name: str) -> None:
    assert Thing(names=(name,)).names == (name,)


def test_values_in_messages_are_short() -> None:
    deep: object = "x" * 10_000
    for _ in range(20):
        deep = [deep] * 10
    for value in (deep, "y" * 10_000, {"a": deep}, 10**4000, b"z" * 10_000):
        assert len(shortened(value)) < 400
    assert len(str(mistake({"names": deep, "sizes": deep}))) < 500
