"""Metrics and logs, for operators.

Metrics: ``metrics`` is what the program records with, ``families`` defines each metric, and ``instruments`` are the
counters, gauges and histograms. ``checks`` counts decisions, ``issuer_metrics``, ``connection_metrics`` and
``process_metrics`` the rest, and ``event_loop_delay`` measures. ``exposition`` writes them, in ``slices``.
``merged_metrics`` merges those of several workers with ``supervisor_metrics``. ``spans`` records traces.

Logs: ``logs`` configures them, ``log_text`` has the formats and redacts, and ``background_log_stream`` writes without
blocking. ``decision_log`` writes decisions, to where ``decision_output`` opens; ``connection_log`` logs connections.

Invariants: nothing that a client sends becomes a metric label, and no token, query string or exception message is
logged. Recording never raises, whatever a request, a label or a stream contains.
"""
