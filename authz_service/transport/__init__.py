"""Servers, health and the wire. Only this package and its subpackages use gRPC and the generated code.

``ext_authz`` turns the bytes of a CheckRequest into those of a CheckResponse. ``asyncio_server`` and ``grpcio_server``
serve it. ``asyncio_server`` runs ``asyncio_protocol`` on each connection (over ``http2``, below ``grpc_methods``), and
``peers`` limits them. ``addresses`` binds sockets, ``tls`` makes the TLS handshakes. ``health`` and ``reflection`` are
the other services, over ``protobuf_wire``; ``services`` names them. ``healthcheck`` probes a running instance.
``otlp`` encodes spans.
"""
