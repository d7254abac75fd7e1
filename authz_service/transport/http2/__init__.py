"""HTTP/2 (RFC 9113) as far as a gRPC server of short unary calls needs it, and no further.

Invariants: nothing here knows a socket, a clock or an event loop. Bytes go in, bytes and calls come out.

frames       the layout of frames, and their numbers
huffman      the code of strings in header blocks
fields       one header field, and whether it may be in a request
compression  header blocks: their octets become fields
headers      what a request's header block says, and the blocks that answers are made of
memory       what all connections of the process keep together
call         one stream, as who serves it sees it
connection   one connection: what each frame means, and what a peer may not do
"""
