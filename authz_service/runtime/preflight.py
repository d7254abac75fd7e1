"""Reads the configuration and checks the files that it names, as far as that is possible without starting.

``check-config``, the start and each reload run the same checks. Nothing here listens or connects, and no server is
imported.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

from cryptography.x509 import load_pem_x509_certificates

from authz_service.config import files
from authz_service.config.document import Problem
from authz_service.config.load import load_with_warnings
from authz_service.config.nonce_key import PROBLEM_AT, read_nonce_key
from authz_service.config.revocations import read_revocations
from authz_service.core.errors import ConfigError, FetchFailed, StartFailed, printable
from authz_service.core.utc import utc
from authz_service.keys.file_source import FileSource
from authz_service.providers import trust_anchors
from authz_service.providers.bearer_token import BearerToken
from authz_service.providers.client_authentication import problem_of
from authz_service.providers.client_certificate import ClientCertificate
from authz_service.transport.tls.certificates import CertificateFiles, Validity
from authz_service.transport.tls.contexts import openssl_certificate_files

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from authz_service.config.document import Where
    from authz_service.config.model import IntrospectionSettings, Issuer, SecurityEventsSettings, Server, Settings

RESTART_ONLY: Final = ("grpc_address", "admin_address", "transport", "workers", "tls")  # keys of server


_DAY = 86400.0  # seconds
# When a certificate expires soon: about when the alert AuthzCertificateExpires says so, and later than cert-manager and
# ACME clients renew one for 90 days, so that a warning means that a renewal is missing. Certificates for a day or less
# are replaced by machines all the time, so for those it is a fifth of the lifetime, as in the alert.
_SOON = 21 * _DAY
_SHORT_LIFETIME = _DAY
_SHORT_LIFETIME_FRACTION = 0.2


class Loaded(NamedTuple):
    """A valid configuration."""

    settings: Settings
    warnings: tuple[str, ...]
    digests: Mapping[Path, bytes]  # of the files that a reload reads again, from before they were read


def read(file: Path) -> Loaded:
    """Read a configuration file and check the files that it names.

    Raises:
        ConfigError: with every problem.
    """
    before = files.digests_of([file])  # a change while the file is read must be seen as one
    settings, warnings = load_with_warnings(file, check, lambda settings: warn(settings, time.time()))
    return Loaded(settings, warnings, before | files.digests_of(settings.reloaded_files))


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
    read_files = CertificateFiles if server.transport == "grpcio" else openssl_certificate_files
    try:
        read_files(server.tls)
    except StartFailed as failure:
        yield Problem(("server", "tls"), str(failure))


def _check_keys(issuer: Issuer, where: Where) -> Iterator[Problem]:
    keys = issuer.keys
    if keys.file is not None:
        try:
            FileSource(keys.file, keys, issuer.key_uses).read()
        except FetchFailed as failure:
            yield Problem((*where, "pem_file" if keys.jwks_file is None else "jwks_file"), str(failure))
    if keys.ca_file is not None and (problem := trust_anchors.problem_of(keys.ca_file)) is not None:
        yield Problem((*where, "ca_file"), problem.removeprefix("keys.ca_file "))
    if keys.bearer_token_file is not None:
        try:
            BearerToken(keys.bearer_token_file, lambda: 0.0).authorization()
        except FetchFailed as failure:
            yield Problem((*where, "bearer_token_file"), str(failure))
    if keys.client_certificate_file is not None and keys.client_key_file is not None:
        try:
            ClientCertificate(keys.client_certificate_file, keys.client_key_file, lambda: 0.0).current()
        except FetchFailed as failure:
            yield Problem((*where, "client_certificate_file"), str(failure))


def _check_credential(client: IntrospectionSettings | SecurityEventsSettings, where: Where) -> Iterator[Problem]:
    if (problem := problem_of(client)) is not None:
        key = client.credential_key or "auth_method"
        yield Problem((*where, key), problem)


def warn(settings: Settings, now: float) -> Iterator[Problem]:
    """Warnings about certificates that ``check`` accepts. ``now`` is in seconds since the epoch."""
    with suppress(StartFailed):  # replaced since, and checked again when the server uses it
        if settings.server.tls is not None:
            validity = CertificateFiles(settings.server.tls).current.validity
            yield from _warn_of_validity(("server", "tls", "certificate_file"), validity, now)
    for place, issuer in enumerate(settings.issuers):
        keys = issuer.keys
        with suppress(FetchFailed):  # as above
            if keys.client_certificate_file is not None and keys.client_key_file is not None:
                pair = ClientCertificate(keys.client_certificate_file, keys.client_key_file, lambda: 0.0).current()
                validity = Validity.of(load_pem_x509_certificates(pair.chain))
                yield from _warn_of_validity(("issuers", place, "keys", "client_certificate_file"), validity, now)


def _warn_of_validity(where: Where, validity: Validity, now: float) -> Iterator[Problem]:
    begin, end = (utc(time, "an unknown time") for time in validity)
    lifetime, left = validity.not_after - validity.not_before, validity.not_after - now
    soon = _SOON if lifetime > _SHORT_LIFETIME else _SHORT_LIFETIME_FRACTION * lifetime
    if now < validity.not_before:
        yield Problem(where, f"is not valid before {begin}, and the other side refuses it until then: check the clocks")
    elif left <= 0:
        yield Problem(
            where, f"expired at {end}, and the other side refuses it: renew it; the new file is read without a restart"
        )
    elif left < soon:
        days, hours = divmod(int(left) // 3600, 24)
        text = f"expires at {end}, in {days} days and {hours} hours: renew it; the new file is read without a restart"
        yield Problem(where, text)
