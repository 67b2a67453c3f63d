"""What the interpreter imports when it starts: asyncio makes aioloop's loops.

It stands for the start-up file of somebody who wants aioloop everywhere, and reaches
the processes that a test starts too.
"""

import aioloop

aioloop.install()
