"""The whole path on one machine: an identity provider, the sidecar, a real Envoy, a small API, and sample requests.

Nothing here serves production, and nothing here is a test fixture: the tests extend these parts in ``tests/support``.
The demo starts the sidecar as users do, with its command and a configuration file only.
"""
