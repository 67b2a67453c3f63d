"""What the interpreter imports when it starts: aioloop's loops, and virtual time.

Every loop that the main thread makes has one clock, as with a
``with aioloop.testing.virtual_time():`` around the whole process.
"""

import aioloop
import aioloop.testing

aioloop.install()
virtual = aioloop.testing.virtual_time(autojump=0.05)
clock = virtual.__enter__()
