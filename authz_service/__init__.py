"""authz-service: a sidecar that validates access tokens for Envoy before a request goes through.

A request passes straight through: wire -> attributes -> rule -> credential -> claims -> decision -> wire.
``ARCHITECTURE.md`` describes the packages; the import contracts in ``pyproject.toml`` define their layers.
"""

__version__ = "0.1.0"
