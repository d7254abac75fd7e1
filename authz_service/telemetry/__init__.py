"""Metrics and logs, for operators.

Invariants: nothing that a client sends becomes a metric label, and no token, query string or exception message is
logged. Recording never raises, whatever a request, a label or a stream contains.
"""
