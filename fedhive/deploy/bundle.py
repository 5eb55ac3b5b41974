"""The Flower app that a run sends to the server and to every machine: fedhive's own packages."""

from __future__ import annotations

from pathlib import Path

import fedhive
from fedhive import guard
from fedhive.errors import UserError

RUN_KEY = "fedhive-run"
"""Key of the run config that holds the name of the submission, and nothing else."""
KEEP = (".py", ".yaml")
_PYPROJECT = """\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "fedhive"
version = "{version}"
license = "Apache-2.0"
dependencies = ["flwr>=1.41,<1.42"]

[tool.flwr.app]
publisher = "fedhive"
fab-include = [{include}]

[tool.flwr.app.components]
serverapp = "fedhive.app:server"
clientapp = "{client}"

[tool.flwr.app.config]
fedhive-config = ""
fedhive-run = ""
"""


def app_files(client_app: str = "fedhive.app:client") -> dict[str, bytes]:
    """What a run needs on other machines, by path: a Flower app of our own packages.

    Works from a clone and from an installed package alike. This machine's own settings
    (``conf/local``) stay here.

    Args:
        client_app: ``module:attribute`` of the ClientApp; it must lie in a package that travels.

    Raises:
        UserError: for a ClientApp from elsewhere.
    """
    packages = ("fedhive", *guard.PACKAGES)
    if client_app.split(".")[0].split(":")[0] not in packages:
        raise UserError(
            f"client_app: {client_app} does not travel to other machines; only "
            f"{', '.join(packages)} do. Put it into one of them, or simulate"
        )
    home = Path(fedhive.__file__).parents[1]
    files = {
        path.relative_to(home).as_posix(): path.read_bytes()
        for name in packages
        for path in sorted((home / name).rglob("*"))
        if path.suffix in KEEP and path.is_file() and not path.is_symlink()
    }
    files = {name: data for name, data in files.items() if not name.startswith("conf/local/")}
    kinds = sorted({f"{name.split('/')[0]}/**/*{Path(name).suffix}" for name in files})
    text = _PYPROJECT.format(
        version=fedhive.__version__,
        include=", ".join(f'"{kind}"' for kind in kinds),
        client=client_app,
    )
    return {"pyproject.toml": text.encode(), **files}
