"""The wire messages of Envoy's ext_authz v3 and of OTLP traces, generated from ``proto/`` by ``make proto``.

Invariants: nothing here but this docstring is written by hand. Only ``authz_service.transport`` imports it.
"""
