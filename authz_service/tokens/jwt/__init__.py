"""Signed tokens (JWT).

``jws`` parses the compact serialization and verifies signatures, ``token_kind`` rejects tokens other than access
tokens, and ``claims`` validates the claims of a verified token. ``cache`` holds validated tokens, older ones packed by
``packing``, and ``invalid`` those with invalid claims.
"""
