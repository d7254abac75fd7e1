"""Warnings about certificates of the configuration that are not valid now or soon.

``preflight`` imports this only if the configuration names a certificate.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from cryptography.x509 import load_pem_x509_certificates

from authz_service.config.document import Problem
from authz_service.core.errors import FetchFailed, StartFailed
from authz_service.core.utc import utc
from authz_service.providers.client_certificate import ClientCertificate
from authz_service.transport.tls.certificates import CertificateFiles, Validity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from authz_service.config.kinds import Where
    from authz_service.config.model import Settings

_DAY = 86400.0  # seconds
# When a certificate expires soon: about when the alert AuthzCertificateExpires fires, and later than cert-manager and
# ACME clients renew one for 90 days, so that a warning means that a renewal is missing. Certificates for a day or less
# are replaced by machines all the time, so for those it is a fifth of the lifetime, as in the alert.
_SOON = 21 * _DAY
_SHORT_LIFETIME = _DAY
_SHORT_LIFETIME_FRACTION = 0.2


def certificate_warnings(settings: Settings, now: float) -> Iterator[Problem]:
    """Warnings about certificates that ``preflight.check`` accepts. ``now`` is in seconds since the epoch."""
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
