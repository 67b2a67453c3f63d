"""Everything at once, for as long as one likes: `python -m tests.soak --minutes 60`.

One loop serves and is the client of HTTP, HTTPS, WebSockets, datagrams, pipes and raw
sockets; it starts processes, uses executors and signals, cancels, and meets clients
that vanish or read slowly; four times in a run 10 000 connections are opened and
dropped. Loops are made and closed in threads beside it. Every byte that arrives is
compared.

The run is a row of laps. After each the work has ended, and what is left is counted:
descriptors, threads, tasks, timers, memory. A timer that is due every 10 ms tells how
late the loop was.
"""
