"""The wire messages of Envoy's ext_authz v3 and of OTLP traces, generated from ``proto/`` by ``make proto``.

``services.binpb`` is generated too: the descriptors of every service, for server reflection.

Invariants: nothing here but this docstring is written by hand. Only ``authz_service.transport`` imports it.
"""
