"""The command `qanvas`: starts processes and speaks HTTP.

Law: imports shared; the api's and the worker's entry points only inside the command that starts them.
"""
