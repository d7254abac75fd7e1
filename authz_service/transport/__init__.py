"""Servers, health and the wire. Only this package and its subpackages use gRPC and the generated code.

``ext_authz`` turns the bytes of a CheckRequest into those of a CheckResponse. ``asyncio_server`` (on ``http2``) and
``grpcio_server`` serve it, ``addresses`` binds their sockets, ``tls`` holds their certificates, and ``healthcheck``
probes a running sidecar.
"""
