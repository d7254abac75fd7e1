"""TLS of the server: ``certificates`` reads and validates the files, ``contexts`` makes OpenSSL contexts of them."""
