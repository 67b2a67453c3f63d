/* blocking.h: calls that block a loop, noticed where they are made.
 *
 * The interpreter tells its audit hooks of most functions that wait for the world: open,
 * socket.connect, subprocess.Popen.  With loop.blocking_calls on, a hook of ours asks
 * whether the calling thread is inside a slot of that loop, and if the call may block it
 * tells aioloop/_blocking.py, which logs or raises.  Nothing is replaced, but for
 * time.sleep before 3.13 (see blocking.c).
 *
 * The hook is added for the first loop that asks, and cannot be removed: without such a
 * loop it reads one word.  A slot does nothing for it. */
#ifndef AL_DIAG_BLOCKING_H
#define AL_DIAG_BLOCKING_H

#include "core/sched.h"

extern PyMethodDef al_blocking_methods[]; /* of the module, not public */

void al_blocking_init(al_state *st);
/* No loop is left; the hook stays, and does nothing. */
void al_blocking_free(al_state *st);

#endif
