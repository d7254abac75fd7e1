"""The HTTP port for operators and orchestrators: /metrics, /healthz, /readyz. It is read-only."""
