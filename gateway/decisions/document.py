"""A YAML text whose nodes keep their lines, and whose problems are collected: nothing in it is believed before it is checked."""

from collections.abc import Collection

import yaml

from gateway.decisions.vocabulary import did_you_mean
from gateway.errors import ConfigError

MAX_CHARACTERS = 256 * 1024
_MAX_DEPTH = 20
_MAX_WORD = 200


class _Loader(yaml.SafeLoader):
    """SafeLoader that bounds nesting and takes no aliases: ten lines of them can stand for a billion nodes."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="no aliases", problem_mark=mark)
        if self.depth >= _MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem=f"at most {_MAX_DEPTH} levels", problem_mark=mark)
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


class Document:
    """Readers take what they expect of a node; what is not there becomes a problem with its line, under `heading`.

    `root` is the top node. Raises ConfigError at once where the text is no YAML at all.
    """

    def __init__(self, text: str) -> None:
        if len(text) > MAX_CHARACTERS:
            raise ConfigError([f"expected at most {MAX_CHARACTERS} characters"])
        self.text = text.removeprefix("\ufeff")
        self._problems: list[tuple[int, str]] = []
        self.heading = ""
        try:
            self._loader = _Loader(self.text)
            root = self._loader.get_single_node()
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise ConfigError([f"line {line}: expected YAML: {error.problem}"]) from error
        except yaml.YAMLError as error:
            raise ConfigError(["expected YAML of printable characters"]) from error
        if root is None:
            raise ConfigError(["line 1: expected a document that is not empty"])
        self.root: yaml.Node = root

    @property
    def problems(self) -> list[str]:
        """From the first line to the last."""
        return [text for _, text in sorted(self._problems, key=lambda problem: problem[0])]

    def take_problems(self) -> list[str]:
        """What was wrong so far; from now on it counts as right."""
        taken, self._problems = self.problems, []
        return taken

    def content(self) -> object:
        """The whole document as plain Python; to be asked when it has no problems."""
        return self._loader.construct_document(self.root)

    def pairs(self, node: yaml.Node | None) -> list[tuple[str, yaml.Node, yaml.Node]]:
        """Key, its node and the value's node; a key that is no scalar reads as empty."""
        if not isinstance(node, yaml.MappingNode):
            return []
        return [(str(key.value) if isinstance(key, yaml.ScalarNode) else "", key, value) for key, value in node.value]

    def mapping(self, node: yaml.Node, known: Collection[str]) -> dict[str, yaml.Node]:
        expected = ", ".join(known)
        if not isinstance(node, yaml.MappingNode):
            self.problem(node, f"expected a mapping of {expected}")
        found: dict[str, yaml.Node] = {}
        for key, key_node, value in self.pairs(node):
            if key in found:
                self.problem(key_node, f"expected {key} once")
            elif key in known:
                found[key] = value
            else:
                self.problem(key_node, f"expected {expected}{did_you_mean(key, known)}")
        return found

    def items(self, node: yaml.Node | None, parent: yaml.Node, what: str) -> list[yaml.Node]:
        if isinstance(node, yaml.SequenceNode) and node.value:
            return list(node.value)
        self.problem(node or parent, f"expected {what}: a list of at least one")
        return []

    def word(self, node: yaml.Node | None, parent: yaml.Node, what: str) -> str:
        value = self.value(node) if node else None
        if isinstance(value, str) and value.isprintable() and 0 < len(value) <= _MAX_WORD:
            return value
        self.problem(node or parent, f"expected {what}: a text of at most {_MAX_WORD} characters")
        return ""

    def choice(self, node: yaml.Node | None, parent: yaml.Node, what: str, known: Collection[str]) -> str:
        value = self.value(node) if node else None
        if isinstance(value, str) and value in known:
            return value
        near = did_you_mean(str(value or ""), known)
        self.problem(node or parent, f"expected {what}: one of {', '.join(known) or '(there is none)'}{near}")
        return ""

    def flag(self, node: yaml.Node, what: str) -> bool:
        value = self.value(node)
        if not isinstance(value, bool):
            self.problem(node, f"expected {what}: true or false")
        return value is True

    def value(self, node: yaml.Node) -> object:
        try:
            return self._loader.construct_object(node, deep=True)
        except (yaml.YAMLError, ValueError):
            self.problem(node, "expected plain YAML: text, numbers, true or false, lists")
            return None

    def written(self, node: yaml.Node) -> str:
        """The node as its author wrote it, on one line and without comments."""
        if isinstance(node, yaml.MappingNode):
            return "{" + ", ".join(f"{self.written(key)}: {self.written(value)}" for key, value in node.value) + "}"
        if isinstance(node, yaml.SequenceNode):
            return "[" + ", ".join(map(self.written, node.value)) + "]"
        return " ".join(self.text[node.start_mark.index : node.end_mark.index].split())

    def problem(self, node: yaml.Node, expected: str) -> None:
        line = node.start_mark.line + 1
        where = f"line {line}, {self.heading}" if self.heading else f"line {line}"
        self._problems.append((line, f"{where}: {expected}"))
