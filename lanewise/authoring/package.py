"""A new package with an agent, a tool and a test, to start from."""

from __future__ import annotations

import importlib.util
import keyword
import re
from dataclasses import asdict, dataclass
from importlib.metadata import distribution
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from string import Template

from shared.errors import ConfigurationError
from worker.discovery import GROUP, OURS

NAME = re.compile(r"[A-Za-z]([A-Za-z0-9_-]{0,62}[A-Za-z0-9])?")
SUFFIX = ".tmpl"
# What the package's own files call otherwise.
FOLDERS = frozenset({"tests", "build", "dist"})
CLASSES = frozenset(
    {"Agent", "AgentRun", "BaseModel", "CountWords", "Field", "Request", "RunAgent", "Tool", "UserExecutionContext"}
)


def shipped() -> frozenset[str]:
    """Returns the names of the agents that come with Lanewise."""
    return frozenset(distribution(OURS).entry_points.select(group=GROUP).names)


@dataclass(frozen=True)
class NewPackage:
    """What the parts of the package are called.

    Args:
        name: of the agent and of the distribution.
        package: what is imported.
        cls: of the agent.
    """

    name: str
    package: str
    cls: str

    @classmethod
    def named(cls, name: str) -> NewPackage:
        """Returns the names that follow from the agent's.

        Raises:
            ConfigurationError: an agent, a package or a module cannot be called so.
        """
        if not NAME.fullmatch(name):
            raise ConfigurationError(
                f"{name!r} cannot be an agent's name: 1 to 64 letters, digits, '-' or '_', "
                f"which begin with a letter and end with a letter or digit"
            )
        if name in shipped():
            raise ConfigurationError(
                f"an agent of Lanewise is called {name!r}, and no two agents can have one name; try {'my-' + name!r}"
            )
        package = name.lower().replace("-", "_")
        if keyword.iskeyword(package) or package in FOLDERS or importlib.util.find_spec(package) is not None:
            raise ConfigurationError(
                f"a package cannot be called {package!r}: there is one of that name, or Python means something else "
                f"by it; try {name + '-agent'!r}"
            )
        made = "".join(part[:1].upper() + part[1:] for part in re.split("[-_]+", name))
        clash = made in CLASSES or keyword.iskeyword(made)
        return cls(name, package, f"{made}Agent" if clash else made)

    def write(self, folder: Path) -> list[Path]:
        """Writes the files into a new folder and returns their paths.

        Raises:
            ConfigurationError: the folder is there already, or cannot be made.
        """
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir()
        except FileExistsError:
            raise ConfigurationError(f"{folder} is there already: choose another name, or --dir") from None
        except OSError as error:
            raise ConfigurationError(f"{folder} cannot be made: {error.strerror}") from None
        return self._write(files("lanewise.authoring") / "template", folder)

    def _write(self, source: Traversable, folder: Path) -> list[Path]:
        written: list[Path] = []
        for item in sorted(source.iterdir(), key=lambda item: (item.is_dir(), item.name)):
            name = self.package if item.name == "package" else item.name.removesuffix(SUFFIX)
            if item.is_dir():
                (folder / name).mkdir()
                written += self._write(item, folder / name)
            elif item.name.endswith(SUFFIX):
                (folder / name).write_text(Template(item.read_text()).substitute(asdict(self)))
                written.append(folder / name)
        return written
