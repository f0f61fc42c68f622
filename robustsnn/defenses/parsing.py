"""Objectives written as text, ``"sr(lam=0.002) + at(eps=8/255, steps=7, rule=bptr)"``, as names with options."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from robustsnn.errors import RobustSNNError, UnknownNameError
from robustsnn.gradients import build_rule

_TOKEN = re.compile(
    r"(?P<number>-?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)"
    r"|(?P<name>[A-Za-z_](?:[A-Za-z0-9_.:]|-(?=[A-Za-z0-9]))*)"
    r"|(?P<sign>[()+,=/])"
)
_CONSTANTS: dict[str, bool | None] = {"true": True, "false": False, "none": None}


def parse_sum(text: str, known: Mapping[str, tuple[str, ...]]) -> list[tuple[str, dict[str, Any]]]:
    """The names and options in a text; for the grammar see `parse_objective`.

    Args:
        text: names with options in parentheses, with ``+`` between them.
        known: names and, in order, the options of each.

    Raises:
        UnknownNameError: a name, option or rule that is not known, with the nearest.
        RobustSNNError: anything else that cannot be read, with its position.
    """
    if not isinstance(text, str):
        raise RobustSNNError(f"an objective is a text such as 'sr(lam=0.002) + at(eps=8/255)', got {text!r}")
    return _Reader(text, known).terms()


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    at: int


@dataclass(frozen=True)
class _Call:
    name: str
    options: dict[str, Any]


class _Reader:
    def __init__(self, text: str, known: Mapping[str, tuple[str, ...]]) -> None:
        self.text = text
        self.known = known
        self._tokens = self._split()
        self._next = 0

    def terms(self) -> list[tuple[str, dict[str, Any]]]:
        found = [self._term()]
        while self._takes("+"):
            found.append(self._term())
        if self._now.kind != "end":
            raise self._error("'+' or the end")
        return found

    def _term(self) -> tuple[str, dict[str, Any]]:
        start = self._now
        name = self._word("the name of an objective").lower()
        if name not in self.known:
            raise UnknownNameError(f"objective at character {start.at + 1} of {self.text!r}", start.text, self.known)
        return name, _spread(self._options(name, self.known[name]))

    def _options(self, owner: str, order: tuple[str, ...] | None) -> dict[str, Any]:
        """What stands in parentheses, where there are any; ``order`` names values without a key."""
        options: dict[str, Any] = {}
        if not self._takes("(") or self._takes(")"):
            return options
        while True:
            start = self._now
            keyed = start.kind == "name" and self._tokens[self._next + 1].text == "="
            if keyed:
                key = self._word("a key")
                self._next += 1
            elif order is None or len(options) >= len(order):
                raise self._error(f"an option of {owner} written key=value")
            else:
                key = order[len(options)]
            if key in options:
                raise RobustSNNError(f"{owner} has {key} twice in {self.text!r}, at character {start.at + 1}")
            if order is not None and key not in order:
                raise UnknownNameError(f"option of {owner} at character {start.at + 1} of {self.text!r}", key, order)
            options[key] = self._value()
            if self._takes(")"):
                return options
            if not self._takes(","):
                raise self._error("',' or ')'")

    def _value(self) -> Any:
        token = self._now
        if token.kind == "number":
            return self._number()
        word = self._word("a number or a name")
        if self._now.text == "(":
            return _Call(word, self._options(word, None))
        return _CONSTANTS.get(word.lower(), word)

    def _number(self) -> int | float:
        top = self._digits()
        if not self._takes("/"):
            return top
        start = self._now
        bottom = self._digits()
        if bottom == 0:
            raise RobustSNNError(f"division by zero at character {start.at + 1} of {self.text!r}")
        return top / bottom

    def _digits(self) -> int | float:
        if self._now.kind != "number":
            raise self._error("a number")
        text = self._now.text
        self._next += 1
        return int(text) if re.fullmatch(r"-?\d+", text) else float(text)

    def _word(self, what: str) -> str:
        if self._now.kind != "name":
            raise self._error(what)
        self._next += 1
        return self._tokens[self._next - 1].text

    def _takes(self, sign: str) -> bool:
        found = self._now.kind == "sign" and self._now.text == sign
        self._next += found
        return found

    @property
    def _now(self) -> _Token:
        return self._tokens[self._next]

    def _split(self) -> list[_Token]:
        tokens, place = [], 0
        while place < len(self.text):
            if self.text[place].isspace():
                place += 1
                continue
            found = _TOKEN.match(self.text, place)
            if found is None:
                raise RobustSNNError(
                    f"cannot read the objective {self.text!r}: unexpected {self.text[place]!r} at character {place + 1}"
                )
            tokens.append(_Token(str(found.lastgroup), found[0], place))
            place = found.end()
        return [*tokens, _Token("end", "", len(self.text))]

    def _error(self, expected: str) -> RobustSNNError:
        found = "the text ends" if self._now.kind == "end" else f"it has {self._now.text!r}"
        return RobustSNNError(
            f"cannot read the objective {self.text!r}: expected {expected} at character {self._now.at + 1}, where {found}"
        )


def _spread(options: dict[str, Any]) -> dict[str, Any]:
    """Calls as the objects or options that they stand for."""
    plain: dict[str, Any] = {}
    for key, value in options.items():
        if not isinstance(value, _Call):
            plain[key] = value
        elif key == "rule":
            plain[key] = build_rule(value.name, **_spread(value.options))
        elif key == "attack":
            plain |= {"attack": value.name, "params": _spread(value.options)}
        else:
            raise RobustSNNError(f"{key}={value.name}(...) cannot be read: only rule and attack take parameters")
    return plain
