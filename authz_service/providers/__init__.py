"""HTTP requests to identity providers.

Owns connections, trust anchors, bounds on what a provider may send, the discovery of its endpoints, the authentication
of this client, and the mapping of foreign errors to ``FetchFailed``. It does not know what is fetched or how often:
``keys`` and ``tokens`` do.
"""
