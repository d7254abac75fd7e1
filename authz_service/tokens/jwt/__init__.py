"""Signed tokens (JWT).

``jws`` parses the compact serialization and verifies signatures, ``token_kind`` rejects tokens other than access
tokens, ``claims`` validates the claims of a verified token, and ``cache`` holds validated tokens.
"""
