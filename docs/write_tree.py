"""Write the tree of modules into README.md: each with the first line of its own docstring.

python docs/write_tree.py
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "lastblock"
MARKED = re.compile(r"(<!-- tree -->\n)(.*?)(<!-- /tree -->)", re.DOTALL)

# The order of the take; what is not named here follows, by name.
ORDER = [
    "__init__",
    "errors",
    "config",
    "runtime",
    "wheels",
    "finetune",
    "review",
    "learning_curve",
    "search",
    "crossvalidation",
    "suggest",
    "estimator",
    "embedder",
    "learner",
    "data",
    "tokenization",
    "decoder",
    "classifier",
    "activations",
    "recipe",
    "training",
    "baseline",
    "beside",
    "evaluation",
    "report",
    "checkpoint",
    "inference",
    "explanation",
    "serving",
    "cli",
]


def purpose(path: Path) -> str:
    """The first line of a module's docstring."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.split("\n")[0]


def place(path: Path) -> tuple[int, str]:
    name = path.stem
    return (ORDER.index(name) if name in ORDER else len(ORDER), name)


def tree() -> str:
    """The package's modules, a line each, folders with theirs below."""
    lines = ["```", "src/lastblock/"]
    for path in sorted(PACKAGE.iterdir(), key=place):
        if (path / "__init__.py").is_file():
            lines.append(f"  {path.name + '/':<18} {purpose(path / '__init__.py')}")
            for module in sorted(path.glob("*.py")):
                if module.name != "__init__.py":
                    lines.append(f"    {module.name:<18} {purpose(module)}")
        elif path.suffix == ".py":
            lines.append(f"  {path.name:<18} {purpose(path)}")
    return "\n".join([*lines, "```", ""])


def with_tree(readme: str) -> str:
    """README's text with the tree as it is now between its two marks."""
    return MARKED.sub(lambda found: found[1] + tree() + found[3], readme)


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(with_tree(readme.read_text(encoding="utf-8")), encoding="utf-8")
