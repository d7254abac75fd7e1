"""TLS of the server.

``certificates`` reads and validates the files, ``contexts`` makes OpenSSL contexts of them, and ``listener`` accepts
connections and makes the handshake with each. ``server`` holds them together. ``allocator`` returns the memory of
connections to the system.
"""
