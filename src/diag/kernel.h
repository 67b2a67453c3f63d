/* kernel.h: what the kernel says about a thread: whether it runs, waits for a processor or
 * sleeps, in which system call, for which descriptor.
 *
 * Read from /proc/self/task, without the GIL.  Where there is none (another system, a
 * sandbox), or a part of it is forbidden, that part is not known. */
#ifndef AL_DIAG_KERNEL_H
#define AL_DIAG_KERNEL_H

#include "base/py.h"

typedef struct {
    char state; /* R: runs or could, S and D: sleeps, T and t: stopped; 0: not known */
    long call;  /* the system call's number; -1: in none, or not known */
    uintptr_t args[6];
    int64_t ran;    /* ns on a processor so far; -1: not known */
    int64_t waited; /* ns for a processor */
} al_kernel;

/* What the thread with that number does. */
void al_kernel_read(int tid, al_kernel *kernel);
/* Only `ran` and `waited`. */
void al_kernel_read_times(int tid, al_kernel *kernel);

/* The name of a system call, or NULL. */
const char *al_kernel_call_name(long call);
/* Whether it is the one by which locks wait. */
bool al_kernel_is_lock(long call);
/* The descriptor that a system call is about, or -1. */
int al_kernel_fd(const al_kernel *kernel);
/* What a descriptor is, for people: "peer 10.0.0.5:5432", a path; or what the call
 * connects to.  An empty text if that is not known. */
void al_kernel_describe(const al_kernel *kernel, int fd, char *text, size_t size);

#endif
