"""The HTTP port for operators and orchestrators: /metrics, /healthz, /readyz. It is read-only.

``server`` serves a sidecar's on the event loop, with a ``connection`` for each client and ``rendering`` for the
metrics. ``threaded_server`` serves the supervisor's in threads, with ``threaded_connection`` and
``threaded_rendering``. They share the HTTP (``exchange``), the ``pages``, the ``limits`` and the ``listeners``.
"""
