"""TLS of the server: ``certificates`` reads the files again when they change, ``contexts`` makes the TLS contexts."""
