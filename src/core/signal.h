/* signal.h: signals reach a sleeping loop.
 *
 * While a loop runs in the main thread, signal.set_wakeup_fd points to its pipe, so
 * that any signal ends the selector's wait at once, whichever thread the kernel gave it
 * to.  A file descriptor that somebody else has set there stays.  Handlers themselves
 * are asyncio's add_signal_handler; the numbers reach it through al_wake_drain. */
#ifndef AL_CORE_SIGNAL_H
#define AL_CORE_SIGNAL_H

#include "core/sched.h"

/* The loop begins to run on this thread.  0 or -1.  Escapes: handles signals that have come. */
int al_signal_enter(al_loop *loop);
/* The loop stops.  Keeps the pipe set when `keep` (the loop has signal handlers). */
int al_signal_leave(al_loop *loop, bool keep);

#endif
