/* alarm.h: a Python function that is called at a time, whatever the program is doing then.
 *
 * A timer of the loop does not fire while the loop is stuck in a callback, in a join of a
 * thread, or no longer runs.  The ticker's second thread calls an alarm as soon as the GIL
 * can be had.  aioloop/_leave.py uses it to say why a program does not end.
 *
 * The list of alarms is guarded by the GIL; the ticker reads only the time of the first,
 * with its lock.  The room owns the functions until they are called or taken back. */
#ifndef AL_DIAG_ALARM_H
#define AL_DIAG_ALARM_H

#include "base/state.h"

int al_alarm_traverse(al_state *st, visitproc visit, void *arg);
void al_alarm_clear(al_state *st);
/* Once the ticker is gone. */
void al_alarm_free(al_state *st);

extern PyMethodDef al_alarm_methods[]; /* of the module, not public */

#endif
