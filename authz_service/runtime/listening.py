"""Logs where the service listens."""

from __future__ import annotations

import logging

from authz_service.telemetry.logs import fields

_logger = logging.getLogger("authz.app")


def log_listening(grpc_address: str, grpc_port: int, admin_address: str, admin_port: int, **more: object) -> None:
    """Log the addresses as configured, with the real port where port 0 was configured."""
    addresses = fields(
        grpc_address=grpc_address, grpc_port=grpc_port, admin_address=admin_address, admin_port=admin_port, **more
    )
    _logger.info("listening", extra=addresses)
