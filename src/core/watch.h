/* watch.h: notices what changes without a loop being told.
 *
 * `watched`, a class that nobody instantiates, derives from the classes of which a loop
 * uses methods without looking them up: CPython renews its version tag when one of them
 * changes.  Assignments to the globals of modules renew it too: dict watchers do that
 * (3.12+), and before them a comparison of the dicts' versions where the clock is read.
 * So an iteration compares one number. */
#ifndef AL_CORE_WATCH_H
#define AL_CORE_WATCH_H

#include "base/state.h"

/* Begins to watch the globals that asyncio's functions use.  0 or -1. */
int al_watch_init(al_state *st);
/* Ends it. */
void al_watch_free(al_state *st);

/* The class to watch.  0, or -1 with TypeError. */
int al_watch_class(al_state *st, PyObject *watched);

/* Another class takes its place: from 3.13 on CPython has a thousand tags for each, which
 * a program that sets a policy, or patches time.monotonic(), in each of its tests uses up.
 * 0 or -1.  Escapes. */
int al_watch_renew(al_state *st);

/* The tag of `watched` changes, if a module's globals have; or may have and `closely`. */
void al_watch_look(al_state *st, bool closely);

/* Whether al_watch_look has anything to do; always false where dicts are watched. */
static inline bool
al_watch_stale(const al_state *st)
{
#if PY_VERSION_HEX < 0x030C0000
    for (int i = 0; i < AL_WATCHED_MODULES; i++) {
        if (((PyDictObject *)st->watched_globals[i])->ma_version_tag !=
            st->seen_globals[i]) {
            return true;
        }
    }
#else
    (void)st;
#endif
    return false;
}

/* What a type's version tag will be as long as the type stays as it is.  0 means that
 * CPython has run out of tags for it: no tag is to be seen again, so that each look finds
 * a change. */
static inline unsigned int
al_tag_to_see(const PyTypeObject *type)
{
    unsigned int tag = AL_LOAD(type->tp_version_tag);
    return tag != 0 ? tag : UINT_MAX;
}

#endif
