"""HTTP/1.1 over sockets, for a WSGI application; h11 reads the protocol.

Every wait for a client has a time limit here, and takes a place of which no client can have all. Nothing in
this folder knows Flask, jobs, the database or Redis.
"""
