"""What must hold for every file of the repository."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from shared.database import load_sql
from tests.conftest import OWN_FLEETS, SHARED_FLEET

ROOT = Path(__file__).parents[2]
# The brackets keep this file from holding what it looks for.
REGISTRIES = re.compile(r"[p]ypi\.org|[p]ythonhosted|[n]pmjs\.(org|com)|[d]eb\.debian|[i]ndex-url")
MACHINE_PATHS = re.compile(r"(?<![\w.~])/(?:work|root|Users/\w+|home/\w+)/")


def tracked(*patterns: str) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--", *patterns],  # noqa: S607 - git of whoever runs the tests
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listed.returncode != 0:
        pytest.skip(f"not a git checkout: {listed.stderr.strip()}")
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def text_of(path: Path) -> str:
    try:
        return path.read_text()
    except UnicodeDecodeError:
        return ""


@pytest.mark.parametrize("forbidden", [REGISTRIES, MACHINE_PATHS], ids=["package registry", "path of a machine"])
def test_no_file_names_what_belongs_to_one_machine(forbidden: re.Pattern[str]) -> None:
    files = tracked()
    assert len(files) > 100
    assert [
        f"{path.relative_to(ROOT)}: {found[0]}"
        for path in files
        for found in [forbidden.search(text_of(path))]
        if found
    ] == []


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(item for extra in project["optional-dependencies"].values() for item in extra),
    ]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lines if "==" in line}
    names = {re.split(r"[\[<>=;\s]", item, maxsplit=1)[0].lower().replace("_", "-") for item in wanted}
    assert names - pinned == set()
    assert [line for line in lines if not re.fullmatch(r"#.*|[\w.-]+==[\w.]+", line)] == []


def test_statements_and_scripts_say_what_they_do() -> None:
    files = tracked("shared/*.sql", "shared/*.lua")
    assert files
    assert [path for path in files if not path.read_text().startswith("-- ")] == []


def test_migrations_are_one_line() -> None:
    config = Config()
    config.set_main_option("script_location", str(ROOT / "shared" / "migrations"))
    scripts = ScriptDirectory.from_config(config)
    assert len(scripts.get_heads()) == 1
    assert len(scripts.get_bases()) == 1


def test_no_statement_is_sent_with_comments_in_which_values_would_be_put() -> None:
    names = [path.stem for path in tracked("shared/sql/*.sql")]
    assert len(names) > 5
    for name in names:
        assert "--" in (ROOT / "shared" / "sql" / f"{name}.sql").read_text()
        assert "--" not in load_sql(name).text


def test_the_files_that_have_fleets_of_their_own_are_there() -> None:
    names = {path.stem.removeprefix("test_") for path in tracked("tests/fleet/test_*.py")}
    assert names >= OWN_FLEETS
    assert {
        path.relative_to(ROOT / "tests").with_suffix("").as_posix() for path in tracked("tests/browser/test_*.py")
    } >= (SHARED_FLEET)
