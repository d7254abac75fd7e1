"""HTTP requests to identity providers.

Owns connections, trust anchors, bounds on what a provider may send, the discovery of its endpoints, the authentication
of this client, and the mapping of foreign errors to ``FetchFailed``. What is fetched, and when again after a failure,
is decided in ``keys`` and ``tokens``.

``client`` sends a request. ``connector`` opens a ``connection`` for it (``proxy`` chooses the way, ``resolver`` and
``happy_eyeballs`` find the address), ``idle_connections`` keeps it for the next request, and ``exchange`` and
``content`` read the response. ``client_authentication``, ``bearer_token``, ``access_token`` and ``client_certificate``
authenticate this client (with what is in a ``secret_file``), ``trust_anchors`` the provider. ``client_resources`` are
shared by all clients. ``discovery`` reads an issuer's metadata, ``endpoint`` refreshes a URL from it, ``urls`` and
``json_object`` parse, and ``errors`` describes failures.
"""
