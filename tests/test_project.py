"""The project as a whole: its public names, its errors, its start-up cost, its documents."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import lastblock
from lastblock import errors


def run_python(code: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    return result.stdout.strip()


def test_public_names_are_these() -> None:
    assert lastblock.__all__ == [
        "TextClassifier",
        "TextEmbedder",
        "__version__",
        "finetune",
        "load",
    ]
    assert dir(lastblock) == lastblock.__all__


def test_public_names_resolve() -> None:
    assert lastblock.__version__ == "0.1.0"
    assert inspect.isclass(lastblock.TextClassifier)
    assert inspect.isclass(lastblock.TextEmbedder)
    assert callable(lastblock.load)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = lastblock.nothing


@pytest.mark.parametrize(
    "before",
    ["pass", "import lastblock.finetune", "from lastblock.finetune import FinetuneResult"],
)
def test_finetune_is_the_function_whatever_was_imported_first(before: str) -> None:
    code = f"{before}\nfrom lastblock import finetune\nprint(type(finetune).__name__)"
    assert run_python(code) == "function"


def test_importing_the_package_costs_nothing_heavy() -> None:
    heavy = "{'torch', 'numpy', 'polars', 'sklearn', 'matplotlib', 'transformers'}"
    assert run_python(f"import sys, lastblock; print({heavy} & set(sys.modules))") == "set()"


def test_predicting_imports_what_it_needs() -> None:
    heavy = "{'sklearn', 'scipy', 'matplotlib', 'polars', 'pandas', 'optuna', 'transformers'}"
    code = f"import sys, lastblock.checkpoint; print({heavy} & set(sys.modules))"
    assert run_python(code) == "set()"


@pytest.mark.parametrize("verb", ["", "demo", "train", "evaluate", "predict"])
def test_help_imports_nothing_heavy(verb: str) -> None:
    code = f"""
import sys
from lastblock.cli import run
code = run([*{verb.split()!r}, "--help"])
heavy = {{"torch", "numpy", "polars", "sklearn", "matplotlib", "transformers", "tokenizers"}}
print(code, heavy & set(sys.modules))
"""
    assert run_python(code).splitlines()[-1] == "0 set()"


@pytest.mark.parametrize("module", ["data.catalog", "data.split", "config", "errors", "wheels"])
def test_data_and_settings_import_no_torch(module: str) -> None:
    code = f"import sys, lastblock.{module}; print('torch' in sys.modules)"
    assert run_python(code) == "False"


def test_every_error_is_drawn_in_the_tree_and_derives_from_the_root() -> None:
    classes = [c for _, c in inspect.getmembers(errors, inspect.isclass)]
    assert len(classes) >= 7
    for error in classes:
        assert issubclass(error, errors.LastblockError)
        assert error.__name__ in (errors.__doc__ or "")


def test_only_the_command_line_prints_or_exits(project_root: Path) -> None:
    source = project_root / "src" / "lastblock"
    for path in source.rglob("*.py"):
        if "cli" in path.relative_to(source).parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in {"print", "exit", "quit", "input"}, path


def test_every_module_says_what_it_does(project_root: Path) -> None:
    for path in (project_root / "src").rglob("*.py"):
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path


def test_every_dependency_is_pinned(project_root: Path) -> None:
    import tomllib

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    project = tomllib.loads((project_root / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"]]
    for extra in project["optional-dependencies"].values():
        wanted += extra
    pinned = {}
    for line in (project_root / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, version = line.split("==")
            pinned[canonicalize_name(name)] = version
    for text in wanted:
        requirement = Requirement(text)
        assert pinned[canonicalize_name(requirement.name)] in requirement.specifier, text


def test_the_command_line_reference_is_up_to_date(project_root: Path) -> None:
    import runpy

    written = (project_root / "docs" / "cli.md").read_text(encoding="utf-8")
    rendered = runpy.run_path(str(project_root / "docs" / "write_cli.py"))["render"]()
    assert written == rendered, "run `make docs`"


def test_the_report_s_reference_is_the_schema(project_root: Path) -> None:
    import runpy

    written = (project_root / "docs" / "report.md").read_text(encoding="utf-8")
    rendered = runpy.run_path(str(project_root / "docs" / "write_report.py"))["render"]()
    assert written == rendered, "run `make docs`"


def test_the_pages_speeds_are_those_measured(project_root: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(project_root / 'docs')!r})\n"
        "import write_speed\n"
        "texts = [page.read_text(encoding='utf-8') for page in write_speed.PAGES]\n"
        "print(all(write_speed.with_table(of) == of and '<!-- speed -->' in of for of in texts))"
    )
    assert run_python(code) == "True", "run `python docs/write_speed.py`"


def test_the_readme_s_tree_is_the_real_one(project_root: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(project_root / 'docs')!r})\n"
        "import write_tree\n"
        "text = (write_tree.ROOT / 'README.md').read_text(encoding='utf-8')\n"
        "print(write_tree.with_tree(text) == text and '<!-- tree -->' in text)"
    )
    assert run_python(code) == "True", "run `make docs`"
