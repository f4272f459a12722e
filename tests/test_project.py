"""The rules of the project that hold for every file: import order, names, documents, configurations, paths."""

import ast
import importlib
import re
import subprocess
from pathlib import Path

import jsonargparse
import pytest

from models.checkpoint import SHIPPED_MODEL

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("models", "data", "infer", "train")  # a package imports only from itself and from those left of it
FORBIDDEN_NAMES = {"utils.py", "helpers.py", "misc.py", "common.py"}
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
TEXT_SUFFIXES = {".py", ".toml", ".md", ".yaml", ".yml", ".json", ".txt", ".csv", ".jsonl", ""}


def project_files() -> list[Path]:
    """Files of the working tree that git tracks or would track."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode != 0:  # an unpacked archive: no git
        return [path for package in (*PACKAGES, "tests", "configs") for path in (ROOT / package).rglob("*.*")]
    return [path for name in result.stdout.splitlines() if (path := ROOT / name).is_file()]


def imported_packages(path: Path) -> set[str]:
    """Top-level names that a Python file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add(path.parent.name if node.level else (node.module or "").split(".")[0])
    return names


@pytest.mark.parametrize("package", PACKAGES)
def test_package_imports_only_from_those_left_of_it(package: str):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    uphill = set(PACKAGES[PACKAGES.index(package) + 1 :]) | {"tests"}
    for path in files:
        wrong = imported_packages(path) & uphill
        assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}; the order is {' < '.join(PACKAGES)}"


def test_models_need_no_lightning():
    for path in (ROOT / "models").rglob("*.py"):
        assert not imported_packages(path) & {"lightning", "pytorch_lightning"}, path.name


def test_no_file_is_a_drawer():
    assert not [path for path in project_files() if path.name in FORBIDDEN_NAMES]


def test_every_package_says_what_it_holds():
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), f"{path} has no docstring"


@pytest.mark.parametrize("document", [path for path in project_files() if path.suffix == ".md"], ids=str)
def test_links_of_a_document_resolve(document: Path):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text(encoding="utf-8")):
        assert "://" in target or (document.parent / target).exists(), f"{document.name} links to {target}"


@pytest.mark.parametrize("package", PACKAGES)
def test_readme_names_every_package(package: str):
    assert f"`{package}/" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_no_machine_paths():
    machine_path = re.compile(r"(?<![\w.>])/(?:work|root|home|Users|mnt|media)/\w+")
    for path in project_files():
        if path.suffix in TEXT_SUFFIXES and path.stat().st_size < 1_000_000:
            found = machine_path.search(path.read_text(encoding="utf-8", errors="ignore"))
            assert not found, f"{path.relative_to(ROOT)} names {found.group()}" if found else ""


def test_shipped_model_is_found_from_any_folder():
    """Default paths into the repository are absolute: `models.checkpoint.SHIPPED_MODEL`, `Path(__file__)...`."""
    assert SHIPPED_MODEL.is_absolute()
    assert (SHIPPED_MODEL / "config.json").is_file()
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            constants = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
            assert path.name == "checkpoint.py" or "checkpoints/demo" not in constants, path


def test_shipped_files_fit_in_60_megabytes():
    size = sum(path.stat().st_size for path in project_files() if "checkpoints" in path.relative_to(ROOT).parts)
    assert size <= 60e6


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: str(path.relative_to(ROOT / "configs")))
def test_config_parses_and_builds(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    is_hosts = config.parent.name == "hosts"
    main = importlib.import_module("infer.fifo.__main__" if is_hosts else f"train.{config.stem}").main
    parser = jsonargparse.auto_parser(main)
    parsed = parser.parse_args(["--config", str(config)])
    parser.instantiate_classes(parsed)
    assert not list(tmp_path.iterdir())
