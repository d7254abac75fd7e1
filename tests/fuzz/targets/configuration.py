"""A configuration file becomes settings that can serve, or a list of problems with their lines.

* Anything else ends in ``ConfigError``, each problem of which names the file and a line of it. So does reading the
  ``server`` section alone.
* An accepted file has one reading: PyYAML's parser in Python rejects it or finds the same values in it, and these,
  written as JSON, load as the same settings.
* An accepted file is valid by the published JSON Schema.
* An authorizer can be built from the settings, and decides; no rule that requires a token allows a request without
  one.
"""

from __future__ import annotations

import functools
import json
import re
from typing import TYPE_CHECKING, Any

import jsonschema
import yaml
from yaml.resolver import Resolver

from authz_service.authorizer import Pending
from authz_service.config.load import load
from authz_service.config.schema import schema
from authz_service.config.server_section import server_of
from authz_service.config.warnings import load_with_warnings
from authz_service.core.attributes import Attributes
from authz_service.core.decision import Allow
from authz_service.core.errors import ConfigError
from authz_service.runtime.assembly import assemble, key_cache_of
from authz_service.telemetry.metrics import Metrics
from authz_service.tokens.validator import TrustedIssuer
from fuzz import files
from fuzz.problems import require_located
from fuzz.sidecar import now
from support.key_source import FakeSource

if TYPE_CHECKING:
    from pathlib import Path

    from authz_service.config.model import Settings

OUTCOMES = {"loads", "rejected"}
MAX_BYTES = 8192
FILES = ("tls.crt", "tls.key", "ca.crt", "jwks.json", "secret")
_EXPONENT = re.compile("[0-9]e-?[0-9]")
_CAPTURE = re.compile(r"\{[^}]*\}|\*\*")


class _Reader(yaml.SafeLoader):
    """PyYAML's, but for dates and a lone =, which stay what is written."""


_Reader.yaml_implicit_resolvers = {
    first: [(tag, looks) for tag, looks in resolvers if tag.rpartition(":")[2] not in {"timestamp", "value"}]
    for first, resolvers in Resolver.yaml_implicit_resolvers.items()
}


@functools.cache
def _write_the_files_that_it_may_name() -> None:
    for name in FILES:
        files.written(name, b"")


@functools.cache
def _schema() -> Any:
    published = schema()
    return jsonschema.validators.validator_for(published)(published)


def run(data: bytes) -> str:
    _write_the_files_that_it_may_name()
    file = files.written("config.yaml", data)
    server, server_error = _taken(server_of, file)
    settings, error = _taken(load, file)
    for each in (error, server_error):
        if each is not None:
            require_located(each, file, data)
    if settings is None:
        return "rejected"
    assert server == settings.server
    assert load_with_warnings(file)[0] == settings
    _decide(settings)
    try:
        values = yaml.load(data.decode("utf-8-sig"), _Reader)  # noqa: S506 - a safe loader
    except yaml.YAMLError:  # the parser in Python is stricter than libyaml about tabs; that is not a different reading
        return "loads with libyaml alone"
    _schema().validate(values)
    text = json.dumps(values)
    if not _EXPONENT.search(text):  # which JSON writes for small numbers, and YAML 1.1 reads as a string
        file.write_text(text)
        assert load(file) == settings
    return "loads"


def _taken(read: Any, file: Path) -> tuple[Any, ConfigError | None]:
    try:
        return read(file), None
    except ConfigError as error:
        return None, error


def _decide(settings: Settings) -> None:
    """Ask each rule's own paths, with nothing else in hand."""
    metrics = Metrics(transport="asyncio")
    trusted = [
        TrustedIssuer(each, key_cache_of(each, FakeSource(), metrics.issuer(each.label), now))
        for each in settings.issuers
    ]
    try:
        authorizer = assemble(settings, trusted, metrics, now=now()).authorizer
    except ConfigError:  # a file that is empty here, which the start-up checks report
        assert settings.dpop_or_default.nonce_key_file is not None or settings.revocations_file is not None
        return
    rules = {rule.name: rule for rule in settings.rules}
    for rule in settings.rules[:8]:
        paths = [_CAPTURE.sub("x", str(pattern)) for pattern in rule.match.paths or ("/x",)]
        hosts = [str(pattern).replace("*", "x") for pattern in rule.match.hosts or ("x.example",)]
        for token in ({}, {"authorization": "Bearer eyJhbGciOiJFZERTQSJ9.e30.AAAA"}):
            headers = dict(rule.match.headers or {}) | token
            if rule.match.mcp:
                methods, names = rule.match.mcp.condition
                headers |= {"mcp-protocol-version": "2026-07-28", "mcp-method": methods[0]}
                headers |= {"mcp-name": names[0]} if names else {}
            for method in (*(rule.match.methods or ("GET",))[:2], "OPTIONS"):
                attributes = Attributes(method, hosts[0], paths[0], headers, rule.policy or "")
                decision = authorizer.begin(attributes, now())
                if isinstance(decision, Pending):
                    decision = authorizer.finish(decision, now())
                if isinstance(decision, Allow) and decision.rule in rules:
                    chosen = rules[decision.rule]
                    assert (
                        chosen.mode == "shadow"
                        or chosen.access == "public"
                        or (chosen.access, token) == ("optional", {})
                    )
