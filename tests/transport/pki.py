"""Ephemeral certificates as files, as a mounted secret has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from authz_service.config.server import Tls

if TYPE_CHECKING:
    from pathlib import Path

    import trustme


class TlsFiles:
    """The files of ``server.tls`` in a folder."""

    def __init__(self, folder: Path, certificate: trustme.LeafCert, client_ca: trustme.CA | None = None) -> None:
        self.certificate = folder / "tls.crt"
        self.key = folder / "tls.key"
        self.client_ca = folder / "ca.crt"
        self.write(certificate)
        if client_ca is not None:
            client_ca.cert_pem.write_to_path(self.client_ca)

    def write(self, certificate: trustme.LeafCert) -> None:
        self.write_certificate(certificate)
        self.write_key(certificate)

    def write_certificate(self, certificate: trustme.LeafCert) -> None:
        self.certificate.write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))

    def write_key(self, certificate: trustme.LeafCert) -> None:
        certificate.private_key_pem.write_to_path(self.key)

    @property
    def written(self) -> dict[str, str]:
        """``server.tls`` as a configuration has it."""
        files = {"certificate_file": str(self.certificate), "key_file": str(self.key)}
        if self.client_ca.exists():
            files["client_ca_file"] = str(self.client_ca)
        return files

    @property
    def settings(self) -> Tls:
        return Tls.read(self.written)
