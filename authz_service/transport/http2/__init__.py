"""HTTP/2 (RFC 9113) as far as a gRPC server of short unary calls needs it, and no further.

Law: nothing here knows a socket, a clock or an event loop. Bytes go in, bytes and calls come out.

frames      the layout of frames, and their numbers
headers     header blocks: what a request's say, and those that answers are made of
call        one stream, as who serves it sees it
connection  one connection: what each frame means, and what a peer may not do
"""
