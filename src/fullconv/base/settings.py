"""Settings that people write: YAML files read safely, and what is wrong with a value, in a line."""

from __future__ import annotations

import unicodedata
from collections.abc import Hashable, Iterator
from reprlib import Repr
from typing import Annotated, Any, NamedTuple

import yaml
from pydantic import AfterValidator, StrictStr, ValidationError

MOST_BYTES = 1 << 22  # of a YAML file
MOST_NODES = 100_000  # values of a YAML file, each counted as often as an alias repeats it
DEEPEST = 32  # nesting

_NOT_IN_A_LINE = {"Cc", "Cs", "Zl", "Zp"}  # control characters, lone surrogates, line ends
_LONGEST_REASON = 300

_repr = Repr()
_repr.maxlevel, _repr.maxlist, _repr.maxtuple, _repr.maxdict = 2, 4, 4, 4
_repr.maxstring = _repr.maxother = _repr.maxlong = 60


def _fits_in_a_line(text: str) -> str:
    bad = next((each for each in text if unicodedata.category(each) in _NOT_IN_A_LINE), None)
    if bad is not None:
        raise ValueError(
            f"{shortened(text)} holds {bad!r}, which is no character that can be shown"
        )
    return text


Line = Annotated[StrictStr, AfterValidator(_fits_in_a_line)]
"""Text for names that are shown: without control characters and lone surrogates."""


def shortened(value: object) -> str:
    """Return the repr of a value for a message, short whatever the value is."""
    return _repr.repr(value)


def _shown(key: str) -> str:
    return key if key.isprintable() and len(key) <= _repr.maxstring else shortened(key)[1:-1]


class Mistake(NamedTuple):
    """The first thing that is wrong with settings.

    Attributes:
        path: keys and indices that lead to the value; empty if the whole is meant.
        kind: pydantic's name for it, such as "missing".
        given: the value, as a short repr.
        said: what is wrong with it, in pydantic's words.
        reason: the same, plainer where people write the settings.
    """

    path: tuple[int | str, ...]
    kind: str
    given: str
    said: str
    reason: str

    @property
    def key(self) -> str:
        """The path as people write it: "heads.sem.classes[3]"."""
        parts = (f"[{each}]" if isinstance(each, int) else f".{_shown(each)}" for each in self.path)
        return "".join(parts).removeprefix(".")

    def __str__(self) -> str:
        return f"{self.key or 'the whole'}: {self.reason}"


def first_mistake(error: ValidationError) -> Mistake:
    """Return the first mistake that pydantic found."""
    first = error.errors(include_url=False)[0]
    path = tuple(part for part in first["loc"] if part != "[key]")
    said = first["msg"].removeprefix("Value error, ")
    if len(said) > _LONGEST_REASON:
        said = f"{said[:_LONGEST_REASON]}…"
    given = shortened(first["input"])
    words = {
        "missing": "is missing",
        "tuple_type": "should be a list, written [a, b]",
        "dict_type": "should be keys and values",
        "too_short": "is empty; name at least one",
        "string_type": f"should be text but is {given}; put it in quotes",
        "string_unicode": "holds half a character (a lone surrogate)",
    }
    reason = words.get(first["type"], said.removeprefix("Input "))
    return Mistake(path, first["type"], given, said, reason)


def read_yaml(content: bytes | str) -> Any:
    """Return the values of a YAML document: what `yaml.safe_load` gives, within bounds.

    Raises:
        ValueError: it is no YAML, a key stands twice in one place, or it is larger or nested
            deeper than settings are; the message is a line.
    """
    if len(content) > MOST_BYTES:
        raise ValueError(f"larger than {MOST_BYTES >> 20} MiB")
    try:
        loader = _Loader(content)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        problem = _problem(error)
    except Exception as error:  # PyYAML's own, on values such as an impossible date or "!!int ''"
        problem = f"a value is not what it says it is ({type(error).__name__}: {error})"
    raise ValueError(problem[:_LONGEST_REASON])


def _problem(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
    return " ".join(f"{getattr(error, 'problem', None) or error}{where}".split())


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which also refuses doubled keys, deep nesting and too many values."""

    def __init__(self, content: bytes | str) -> None:
        super().__init__(content)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Compose a node, or the one that an alias repeats."""
        self._depth += 1
        if self._depth > DEEPEST:
            raise _refusal(f"nested deeper than {DEEPEST}", self.peek_event().start_mark)  # type: ignore[no-untyped-call]
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def get_single_node(self) -> yaml.Node | None:
        """Compose the document, whose values are bounded before any is made."""
        node = super().get_single_node()
        if node is not None:
            _bounded_size(node, {})
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Construct a mapping whose keys differ, but for those that ``<<`` merges."""
        lines: dict[Hashable, int] = {}
        own = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        for key, line in self._keys(own):
            if key in lines:
                told = (
                    f"key {shortened(key)} stands twice, in lines {lines[key]} and {line}; keep one"
                )
                raise yaml.constructor.ConstructorError(problem=told)
            lines[key] = line
        return super().construct_mapping(node, deep)

    def _keys(self, nodes: list[yaml.Node]) -> Iterator[tuple[Hashable, int]]:
        for node in nodes:
            key = self.construct_object(node, deep=True)
            if isinstance(key, Hashable):  # else PyYAML refuses it
                yield key, node.start_mark.line + 1


def _bounded_size(node: yaml.Node, sizes: dict[int, int | None]) -> int:
    """Count the values below a node, each as often as it is repeated; they must be few."""
    known = sizes.setdefault(id(node), None)
    if known is not None:
        return known
    size = 1
    for child in _children(node):
        if sizes.get(id(child), 0) is None:
            raise _refusal("an alias stands within what it repeats", child.start_mark)
        size += _bounded_size(child, sizes)
        if size > MOST_NODES:
            raise _refusal(f"more than {MOST_NODES:,} values, aliases counted", node.start_mark)
    sizes[id(node)] = size
    return size


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        for pair in node.value:
            yield from pair
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value


def _refusal(problem: str, mark: Any) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(problem=problem, problem_mark=mark)
