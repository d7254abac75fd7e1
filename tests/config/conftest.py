"""A configuration file in a folder of its own, with the files that a test names beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import pytest
import yaml

from authz_service.config.load import load
from authz_service.core.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from authz_service.config.model import Settings

# Either may read a configuration: libyaml where PyYAML's wheel has it, else PyYAML alone.
PARSERS = {"libyaml": yaml.CSafeLoader, "PyYAML": yaml.SafeLoader}
FILES = ("tls.crt", "tls.key", "ca.crt", "jwks.json", "secret")


class Loads(Protocol):
    def __call__(self, text: str | bytes) -> Settings: ...


class Refuses(Protocol):
    def __call__(self, text: str | bytes) -> list[str]: ...


@pytest.fixture
def loads(tmp_path: Path) -> Loads:
    """Loads a document that must be valid."""

    def _loads(text: str | bytes) -> Settings:
        for name in FILES:
            (tmp_path / name).touch()
        file = tmp_path / "config.yaml"
        file.write_bytes(text.encode() if isinstance(text, str) else text)
        return load(file)

    return _loads


@pytest.fixture
def refuses(loads: Loads, tmp_path: Path) -> Refuses:
    """Loads a document that must be rejected; the problems, with paths relative to the configuration file."""

    def _refuses(text: str | bytes) -> list[str]:
        with pytest.raises(ConfigError) as refusal:
            loads(text)
        return [problem.replace(f"{tmp_path}/", "") for problem in refusal.value.problems]

    return _refuses
