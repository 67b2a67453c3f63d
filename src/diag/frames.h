/* frames.h: what a thread executes, read without the GIL.
 *
 * The thread may run on while it is looked at, so what is found is approximate: right
 * wherever the thread is stuck, which is where somebody looks.  With the GIL held it is
 * exact.  Frames before their first instruction and those of the interpreter's C code are
 * left out, as in core/stack. */
#ifndef AL_DIAG_FRAMES_H
#define AL_DIAG_FRAMES_H

#include "base/state.h"

enum { AL_FILE_SIZE = 256, AL_NAME_SIZE = 96 };

/* A frame as text, UTF-8; what is too long loses its beginning. */
typedef struct {
    char file[AL_FILE_SIZE];
    char function[AL_NAME_SIZE];
    int line; /* 0: not known */
} al_place;

/* Where a thread's innermost Python function is, to see whether it moves. */
typedef struct {
    const void *frame, *ip;
} al_spot;

/* Whether a thread has the GIL of its interpreter. */
bool al_frames_has_gil(const PyThreadState *thread);
/* The thread of the interpreter that has the GIL, or NULL if none is found.  The result
 * may be freed any time: it is an address to be peeked at. */
const PyThreadState *al_frames_gil_holder(PyInterpreterState *interpreter);
/* A thread's numbers: of the threading module, of the kernel.  False if it is gone. */
bool al_frames_thread_ids(const PyThreadState *thread, unsigned long *ident, int *tid);

/* Reads at most `max` frames, innermost first, those inside `stop` (NULL: all).  Returns
 * how many there are; *spot is the innermost one's. */
int al_frames_read(const PyThreadState *thread, const void *stop, al_place *places,
                   int max, al_spot *spot);
/* Only the innermost one's spot. */
al_spot al_frames_spot(const PyThreadState *thread);

/* With the GIL: how many frames are inside `stop`; -1 if it is not among them, or too far
 * away. */
int al_frames_depth(const PyThreadState *thread, const void *stop);

#endif
