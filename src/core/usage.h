/* usage.h: who used the loop: a table by coroutine function or callback.
 *
 * The key of an entry is a code object: that of the coroutine that a task runs, or of the
 * function that is called.  What has none goes by its type, by the definition of a C
 * function, or, for work of the loop's own (accepting, sending), by the C function that
 * runs it; data_received() goes by the class of the protocol.  An entry owns its code
 * object or type and stays for as long as the loop has its meter, so its number stays
 * valid; 1023 can be told apart, and the first one stands for all that come later. */
#ifndef AL_CORE_USAGE_H
#define AL_CORE_USAGE_H

#include "base/ring.h"
#include "base/state.h"

struct al_loop;

enum { AL_USAGE_ENTRIES = 1024 };
#define AL_USAGE_NOBODY UINT32_MAX

enum { AL_USAGE_TASK, AL_USAGE_CALLBACK, AL_USAGE_PROTOCOL, AL_USAGE_LOOP };

typedef struct {
    PyObject *what; /* owned: a code object, a type, or a str */
    int kind;
    uint64_t steps, self_wakes;
    int64_t time, delay;     /* ns */
    int64_t longest, recent; /* ns: before the last window opened, and since then */
} al_usage_entry;

/* The table is open-addressed, by hash of the key; a free place has no key. */
typedef struct {
    uintptr_t key;   /* an address, and the kind in its low bits */
    uint32_t number; /* of the entry */
} al_usage_place;

typedef struct {
    al_usage_place places[2 * AL_USAGE_ENTRIES];
    al_usage_entry entries[AL_USAGE_ENTRIES];
    uint32_t count;
    uint32_t windows_open;
} al_usage;

void al_usage_init(al_usage *usage);
int al_usage_traverse(const al_usage *usage, visitproc visit, void *arg);
/* Entries lose what they are of; the numbers stay.  Escapes. */
void al_usage_clear(al_usage *usage);

/* The code of a coroutine or generator of CPython's, borrowed: the object keeps it.  NULL
 * without memory, and no exception. */
PyObject *al_usage_code(PyObject *coro);

/* The number of the entry for a slot that is about to run, or AL_USAGE_NOBODY if it is
 * cancelled. */
uint32_t al_usage_find(al_usage *usage, const struct al_loop *loop,
                       const al_slot *slot);

/* A slot has run for `took` ns after `delay` ns in the queue. */
static inline void
al_usage_add(al_usage *usage, uint32_t number, int64_t took, int64_t delay,
             bool self_wake)
{
    al_usage_entry *entry = &usage->entries[number];
    entry->steps++;
    entry->self_wakes += self_wake;
    entry->time += took;
    entry->delay += delay;
    if (AL_UNLIKELY(took > entry->recent)) {
        entry->recent = took;
    }
}

/* A window of loop.top() opens: `recent` begins anew, unless another one is open. */
void al_usage_open_window(al_usage *usage);
void al_usage_close_window(al_usage *usage);

/* A list of (number, kind, what, steps, time, longest, recent, delay, self-wakes). */
PyObject *al_usage_read(const al_usage *usage);

#endif
