/* frame.h: the four words of CPython's interpreter frame that a stack walk needs.
 *
 * CPython has no public function that walks the stack without making a frame object for
 * each frame, which costs ten times as much as the walk.  This mirror is compared with
 * CPython's internal headers by tests/unit/test_stack.py, and with the table that
 * CPython 3.13+ publishes for debuggers when the module is imported; where it does not
 * hold, stack.c walks through the public functions.
 *
 * A frame whose owner is AL_FRAME_FOREIGN or more belongs to C code of the interpreter:
 * nothing but `owner` and `previous` may be read from it. */
#ifndef AL_CORE_FRAME_H
#define AL_CORE_FRAME_H

#include <stdint.h>

enum { AL_FRAME_OF_GENERATOR = 1, AL_FRAME_FOREIGN = 3 };

#if PY_VERSION_HEX < 0x030C0000
typedef struct al_frame {
    void *skip_function[4];
    uintptr_t code;
    void *skip_object;
    struct al_frame *previous;
    const char *ip;
    char skip_flags[5];
    char owner;
} al_frame;
#else
typedef struct al_frame {
    uintptr_t code; /* 3.14+: the low bits are a tag */
    struct al_frame *previous;
    void *skip_function[5];
    const char *ip;
#if PY_VERSION_HEX < 0x030E0000
    char skip_flags[6];
#else
    char skip_flags[10];
#endif
    char owner;
} al_frame;
#endif

#endif
