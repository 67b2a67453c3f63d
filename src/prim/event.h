/* event.h: what queues do with their asyncio.Event.
 *
 * The methods of Event stay asyncio's: of a wait that is over they are a small part. */
#ifndef AL_PRIM_EVENT_H
#define AL_PRIM_EVENT_H

#include "prim/replace.h"

/* event.set() and event.clear(), of any object.  0 or -1.  Escape. */
int al_event_set(al_state *st, PyObject *event);
int al_event_clear(al_state *st, PyObject *event);

#endif
