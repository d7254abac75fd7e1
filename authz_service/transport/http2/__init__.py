"""HTTP/2 (RFC 9113) as far as a gRPC server with short unary calls, and a probe of it, need it.

There are no sockets, clocks and event loops in here: octets come in, octets and messages go out. At run time, a module
imports only those above it.

frames        the layout of frames, their numbers, connection errors and stream errors
static_table  the static table of HPACK
huffman       the Huffman code of string literals
fields        one field line, and whether a request may contain it
compression   HPACK: decoding and encoding of field blocks
headers       the header section of a request
grpc_framing  length-prefixed messages, and the field blocks of responses
memory        the memory that all connections of the process share
limits        limits on the work that one peer causes
timeouts      how long a connection waits
flow_control  the windows of a connection
settings      SETTINGS, ours and the peer's
service       what serves requests, and why a request is not served
stream        one stream, and the streams of a connection
response      sending responses
request       receiving requests
connection    the preface, frame dispatch, keepalive, draining and closing

client        the other side, for one call: it uses frames, compression and grpc_framing
"""
