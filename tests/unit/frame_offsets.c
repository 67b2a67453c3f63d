/* Compiles only if src/core/frame.h agrees with this Python's internal headers. */
#define Py_BUILD_CORE 1
#include <Python.h>

#include <stddef.h>

#include "core/frame.h"
#if PY_VERSION_HEX >= 0x030E0000
#include "internal/pycore_interpframe_structs.h"
#else
#include "internal/pycore_frame.h"
#endif

#if PY_VERSION_HEX >= 0x030D0000
#define CODE f_executable
#define IP instr_ptr
#elif PY_VERSION_HEX >= 0x030C0000
#define CODE f_code
#define IP prev_instr
#else
#define CODE f_code
#define IP prev_instr
#endif

#define SAME_PLACE(ours, theirs)                                                       \
    _Static_assert(offsetof(al_frame, ours) == offsetof(_PyInterpreterFrame, theirs),  \
                   #ours)

SAME_PLACE(code, CODE);
SAME_PLACE(previous, previous);
SAME_PLACE(ip, IP);
SAME_PLACE(owner, owner);

_Static_assert(sizeof(((_PyInterpreterFrame *)0)->owner) == 1, "owner is a char");
_Static_assert(AL_FRAME_OF_GENERATOR == FRAME_OWNED_BY_GENERATOR, "generator");
#if PY_VERSION_HEX >= 0x030E0000
_Static_assert(AL_FRAME_FOREIGN == FRAME_OWNED_BY_INTERPRETER, "foreign");
#elif PY_VERSION_HEX >= 0x030C0000
_Static_assert(AL_FRAME_FOREIGN == FRAME_OWNED_BY_CSTACK, "foreign");
#else
_Static_assert(AL_FRAME_FOREIGN > FRAME_OWNED_BY_FRAME_OBJECT, "foreign");
#endif
