"""Every tolerance of a test has its reason: a bound of tests/rounding.py by name, or a comment with its origin.

A figure that one CPU printed is no bound: another processor, library or number of threads rounds otherwise.
"""

import ast
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
KEYWORDS = {"atol", "rtol", "abs", "rel"}
# A number below this beside < or > looks like the bound of a difference.
SMALL = 0.1
NAMES = {
    node.name if isinstance(node, ast.FunctionDef) else node.targets[0].id
    for node in ast.parse((TESTS / "rounding.py").read_text()).body
    if isinstance(node, ast.FunctionDef)
    or (isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name))
}


def numbers(node: ast.AST) -> list[float]:
    """The numbers of an expression but zeros and indices."""
    if isinstance(node, ast.Subscript):
        return numbers(node.value)
    return [
        abs(part.value)
        for part in ast.walk(node)
        if isinstance(part, ast.Constant) and type(part.value) in (int, float) and part.value
    ]


def is_bounded_by_name(node: ast.AST) -> bool:
    return any(isinstance(part, ast.Name) and part.id in NAMES for part in ast.walk(node))


def tolerances(tree: ast.AST) -> Iterator[tuple[ast.expr, str]]:
    """Yield the expressions of tolerances, and what kind each is."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            for keyword in node.keywords:
                if keyword.arg in KEYWORDS and numbers(keyword.value):
                    yield keyword.value, f"{keyword.arg}={ast.unparse(keyword.value)}"
        elif isinstance(node, ast.Assert) and isinstance(node.test, ast.Compare):
            sides = [node.test.left, *node.test.comparators]
            if any(isinstance(op, ast.Lt | ast.LtE | ast.Gt | ast.GtE) for op in node.test.ops):
                for side in sides:
                    if any(type(n) is float and n < SMALL for n in numbers(side)):
                        yield side, ast.unparse(node.test)
            elif any(is_rounded(side) for side in sides):
                yield node.test, ast.unparse(node.test)


def is_rounded(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "round"
        and len(node.args) == 2
    )


def without_reason(source: str) -> list[str]:
    """Return the tolerances of a module that have neither a name of rounding.py nor a comment at their statement."""
    tree = ast.parse(source)
    comments = {
        token.start[0]
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT and not token.string.startswith(("# noqa", "# type", "# fmt"))
    }
    statement = {}
    for node in ast.walk(tree):  # the smallest statement that holds an expression comes last
        if isinstance(node, ast.stmt):
            for part in ast.walk(node):
                statement[id(part)] = node
    found = []
    for node, text in tolerances(tree):
        first = statement[id(node)].lineno - 1
        if not is_bounded_by_name(node) and not comments & set(range(first, node.end_lineno + 2)):
            found.append(f"line {node.lineno}: {text}")
    return found


@pytest.mark.parametrize("path", sorted(TESTS.rglob("*.py")), ids=lambda path: str(path.relative_to(TESTS)))
def test_no_tolerance_without_its_reason(path):
    assert without_reason(path.read_text()) == [], (
        "take a bound from tests/rounding.py, compare with something exact, or say in a comment where the number is from"
    )


@pytest.mark.parametrize(
    "line",
    [
        "np.testing.assert_allclose(a, b, atol=1e-5)",
        "assert a == pytest.approx(b, rel=5 / n)",
        "assert abs(a - b) < 1e-6",
        "assert a <= b / 2 + 1e-6",
        "assert round(a, 3) == b",
    ],
)
def test_the_rule_notices(line):
    assert without_reason(line)
    assert not without_reason(f"# five standard errors\n{line}")
    assert not without_reason(f"{line}  # six digits are printed")


@pytest.mark.parametrize(
    "line",
    [
        "np.testing.assert_allclose(a, b, atol=0, rtol=0)",
        "assert a == pytest.approx(b, rel=SUMS64)",
        "assert a <= b / 2 + gamma(3) * c",
        "assert price == 0.01",
        "assert auc > 0.7",
    ],
)
def test_the_rule_lets_through(line):
    assert not without_reason(line)
