"""The command ``authz-service init``: validate the arguments, read what the issuer publishes, write the file.

It prompts for the audience at a terminal only, and overwrites a file only with --force.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from authz_service.config.model import Keys
from authz_service.config.places import FILE
from authz_service.config.values import AUDIENCE, URL
from authz_service.core.errors import FetchFailed, StartFailed, printable
from authz_service.initial_config import published
from authz_service.initial_config.text import configuration
from authz_service.terminal import progress

if TYPE_CHECKING:
    from authz_service.config.kinds import Kind


def run(
    issuer: str, audience: str | None, output: Path | None, ca_file: Path | None, *, force: bool, allow_http: bool
) -> None:
    """Write a configuration for the issuer to a file, or to standard output.

    Raises:
        StartFailed: with what is wrong with an argument, the issuer or the file.
    """
    _require_valid("--issuer", URL, issuer)
    if audience is not None:
        _require_valid("--audience", AUDIENCE, audience)
    if output is not None and output.exists() and not force:
        raise StartFailed(printable(f"{output} exists already: choose another file, or overwrite it with --force"))
    if ca_file is not None:
        _require_valid("--ca-file", FILE, str(ca_file.absolute()))
    keys = Keys.read({"ca_file": ca_file and str(ca_file.absolute()), "allow_http": allow_http})
    try:
        with progress(sys.stderr, f"Reading the metadata of {printable(issuer)} ..."):
            found = asyncio.run(published.read(issuer, keys))
    except FetchFailed as failure:
        raise StartFailed(printable(_with_options(str(failure)))) from None
    if found.problem:
        print(printable(f"warning: {found.problem}"), file=sys.stderr)
    if audience is None and sys.stdin.isatty() and sys.stderr.isatty():
        audience = _prompt_for_audience()
    text = configuration(found, keys, audience)
    if output is None:
        print(text, end="")
    else:
        _write(output, text, overwrite=force)


def _prompt_for_audience() -> str | None:
    """The audience that the user enters; None if it is left for later."""
    print(
        "Audience (aud) of the access tokens for your API; Enter to add it later: ", end="", file=sys.stderr, flush=True
    )
    audience = sys.stdin.readline().strip()
    if not audience:
        return None
    _require_valid("the audience", AUDIENCE, audience)
    return audience


def _with_options(message: str) -> str:
    """A message about the provider, with this command's options in place of the configuration's keys."""
    return message.replace("set keys.allow_http: true", "add --allow-http").replace("keys.ca_file", "--ca-file")


def _require_valid(name: str, kind: Kind[Any], value: str) -> None:
    try:
        kind.read(value, Path())  # with a folder, a file must exist
    except ValueError as error:
        raise StartFailed(printable(f"{name}: {error}")) from None


def _write(file: Path, text: str, *, overwrite: bool) -> None:
    try:
        with file.open("w" if overwrite else "x", encoding="utf-8") as opened:
            opened.write(text)
    except OSError as error:
        raise StartFailed(printable(f"{file} cannot be written: {error.strerror}")) from None
    print(printable(f"wrote {file}; now run: authz-service check-config {file}"), file=sys.stderr)
