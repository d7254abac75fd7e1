"""Reads the configuration and checks the files that it names, as far as that is possible without starting.

``check-config``, the start and each reload run the same checks. Nothing here listens or connects, no server is
imported, and nothing that reads a kind of file which the configuration does not name.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from authz_service.config import files
from authz_service.config.document import Problem
from authz_service.config.load import load_with_source
from authz_service.config.nonce_key import PROBLEM_AT, read_nonce_key
from authz_service.core.errors import ConfigError, FetchFailed, StartFailed, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from authz_service.config.kinds import Where
    from authz_service.config.model import IntrospectionSettings, Issuer, SecurityEventsSettings, Settings
    from authz_service.config.server import Server

RESTART_ONLY: Final = ("grpc_address", "admin_address", "transport", "workers", "tls")  # keys of server


class Loaded(NamedTuple):
    """A valid configuration."""

    file: Path
    settings: Settings
    source: bytes  # the content of the file, in which the lines of warnings are found
    digests: Mapping[Path, bytes]  # of the files that a reload reads again, from before they were read


def read(file: Path) -> Loaded:
    """Read a configuration file and check the files that it names.

    Raises:
        ConfigError: with every problem.
    """
    before = files.digests_of([file])  # a change while the file is read must be seen as one
    settings, source = load_with_source(file, check)
    return Loaded(file, settings, source, before | files.digests_of(settings.reloaded_files))


def warnings_of(loaded: Loaded) -> tuple[str, ...]:
    """The warnings about a configuration, each with its line. May be called from any thread, and takes a while."""
    from authz_service.config.warnings import located_warnings

    found: Iterable[Problem] = ()
    clients = (issuer.keys.client_certificate_file for issuer in loaded.settings.issuers)
    if loaded.settings.server.tls is not None or any(clients):
        from authz_service.runtime.certificate_warnings import certificate_warnings

        found = certificate_warnings(loaded.settings, time.time())
    return located_warnings(loaded.file, loaded.source, loaded.settings, found)


def check(settings: Settings) -> Iterator[Problem]:
    """The problems of certificates, trust anchors, key set files, revocations and credentials."""
    yield from _check_tls(settings.server)
    yield from _check_revocations(settings)
    yield from _check_decisions_file(settings)
    if settings.dpop is not None and settings.dpop.nonce_key_file is not None:
        try:
            read_nonce_key(settings.dpop.nonce_key_file)
        except ConfigError as error:
            yield Problem(("dpop", "nonce_key_file"), str(error).removeprefix(PROBLEM_AT))
    for place, issuer in enumerate(settings.issuers):
        yield from _check_keys(issuer, ("issuers", place, "keys"))
        if issuer.introspection is not None:
            yield from _check_credential(issuer.introspection, ("issuers", place, "introspection"))
        if issuer.security_events is not None:
            yield from _check_credential(issuer.security_events, ("issuers", place, "security_events"))


def _check_revocations(settings: Settings) -> Iterator[Problem]:
    if settings.revocations_file is not None:
        from authz_service.config.revocations import read_revocations

        try:
            read_revocations(settings.revocations_file, settings.issuers)
        except ConfigError as error:
            for problem in error.problems:
                yield Problem(("revocations_file",), problem)


def _check_decisions_file(settings: Settings) -> Iterator[Problem]:
    file = settings.logging.decisions_file
    if file is None:
        return
    written = file if file.exists() else file.parent
    if not os.access(written, os.W_OK):
        text = (
            f"{printable(str(written))} is not writable for this user: change its owner or mode, or write another path"
        )
        yield Problem(("logging", "decisions_file"), text)


def _check_tls(server: Server) -> Iterator[Problem]:
    if server.tls is None:
        return
    from authz_service.transport.tls.certificates import CertificateFiles
    from authz_service.transport.tls.contexts import openssl_certificate_files

    read_files = CertificateFiles if server.transport == "grpcio" else openssl_certificate_files
    try:
        read_files(server.tls)
    except StartFailed as failure:
        yield Problem(("server", "tls"), str(failure))


def _check_keys(issuer: Issuer, where: Where) -> Iterator[Problem]:
    keys = issuer.keys
    if keys.file is not None:
        from authz_service.keys.file_source import FileSource

        try:
            FileSource(keys.file, keys, issuer.key_uses).read()
        except FetchFailed as failure:
            yield Problem((*where, "pem_file" if keys.jwks_file is None else "jwks_file"), str(failure))
    if keys.ca_file is not None:
        from authz_service.providers import trust_anchors

        if (problem := trust_anchors.problem_of(keys.ca_file)) is not None:
            yield Problem((*where, "ca_file"), problem.removeprefix("keys.ca_file "))
    if keys.bearer_token_file is not None:
        from authz_service.providers.bearer_token import BearerToken

        try:
            BearerToken(keys.bearer_token_file, lambda: 0.0).authorization()
        except FetchFailed as failure:
            yield Problem((*where, "bearer_token_file"), str(failure))
    if keys.client_certificate_file is not None and keys.client_key_file is not None:
        from authz_service.providers.client_certificate import ClientCertificate

        try:
            ClientCertificate(keys.client_certificate_file, keys.client_key_file, lambda: 0.0).current()
        except FetchFailed as failure:
            yield Problem((*where, "client_certificate_file"), str(failure))


def _check_credential(client: IntrospectionSettings | SecurityEventsSettings, where: Where) -> Iterator[Problem]:
    from authz_service.providers.client_authentication import problem_of

    if (problem := problem_of(client)) is not None:
        key = client.credential_key or "auth_method"
        yield Problem((*where, key), problem)
