/* misuse.h: what programs do that they did not mean, counted always.
 *
 * Each loop has these counters, and so has the interpreter (st->misuse): for what no loop
 * can be blamed for, and for the time after its loop has gone.  See core/misuse.h. */
#ifndef AL_BASE_MISUSE_H
#define AL_BASE_MISUSE_H

#include <stdint.h>

/* X(KIND, name): the name is Python's. */
#define AL_MISUSE_KINDS(X)                                                             \
    X(BLOCKING_CALL, blocking_calls) /* while the switch of diag/blocking is on */     \
    X(PENDING_TASK, pending_tasks)   /* collected by the garbage collector */          \
    X(UNAWAITED, unawaited_coroutines)                                                 \
    X(UNRETRIEVED, unretrieved_exceptions)                                             \
    X(UNCLOSED, unclosed_transports)                                                   \
    X(CLOSED_FD, closed_descriptors) /* while the loop watched them */                 \
    X(REUSED_FD, reused_descriptors) /* their transport never knew of its end */

typedef enum {
#define X(kind, name) AL_##kind,
    AL_MISUSE_KINDS(X)
#undef X
        AL_MISUSES
} al_misuse_kind;

typedef struct {
    uint64_t counts[AL_MISUSES];
} al_misuse;

#endif
