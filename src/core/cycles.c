/* cycles.c: see cycles.h. */
#include "core/cycles.h"

#include <math.h>

#include "core/poll.h"

#if AL_CYCLES_KNOWN
#include <cpuid.h>
#include <fcntl.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>
#endif

/* ns; so long is the clock not read, and so long does a measurement take, at first and at
 * most. */
static const int64_t SPAN = 1000 * 1000;
static const int64_t FIRST_WINDOW = 1000 * 1000;
static const int64_t LAST_WINDOW = 100 * 1000 * 1000;
/* Two measurements that differ by less agree. */
static const double TOLERANCE = 1e-3;
/* A reading of the clock that takes so many times what the shortest took was interrupted. */
enum { INTERRUPTED = 4 };

#if AL_CYCLES_KNOWN

/* Whether the counter runs evenly, also while the processor sleeps, and the program may
 * read it. */
static bool
is_even(void)
{
    unsigned a, b, c, d;
    int allowed = 0;
    return __get_cpuid(0x80000007, &a, &b, &c, &d) != 0 && (d & (1u << 8)) != 0 &&
           prctl(PR_GET_TSC, &allowed) == 0 && allowed == PR_TSC_ENABLE;
}

/* Whether the kernel has found it to be the same on all processors, and keeps time by it. */
static bool
is_kernels_clock(void)
{
    static const char path[] =
        "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    char name[8];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? -1 : read(fd, name, sizeof(name));
    if (fd >= 0) {
        close(fd);
    }
    return length == 4 && memcmp(name, "tsc\n", 4) == 0;
}

#else

static bool
is_even(void)
{
    return false;
}

static bool
is_kernels_clock(void)
{
    return false;
}

#endif

void
al_cycles_init(al_cycles *cycles)
{
    *cycles = (al_cycles){.usable = is_even() && is_kernels_clock(),
                          .shortest = UINT64_MAX / INTERRUPTED};
}

/* A measurement begins. */
static void
begin_window(al_cycles *cycles, uint64_t cycle, int64_t time, int64_t window)
{
    cycles->first_cycle = cycle;
    cycles->first_time = time;
    cycles->window = window;
}

/* A measurement is over. */
static void
measure(al_cycles *cycles, uint64_t cycle, int64_t time)
{
    double last = cycles->measured;
    double measured =
        (double)(time - cycles->first_time) / (double)(cycle - cycles->first_cycle);
    int64_t longer = Py_MIN(2 * cycles->window, LAST_WINDOW);
    cycles->measured = measured;
    if (fabs(measured - last) <= last * TOLERANCE) {
        cycles->scale = (uint64_t)(measured * 4294967296.);
        cycles->span = (uint64_t)((double)SPAN / measured);
        begin_window(cycles, cycle, time, longer);
    }
    else {
        cycles->span = 0;
        begin_window(cycles, cycle, time, FIRST_WINDOW);
    }
}

AL_COLD int64_t
al_cycles_look(al_cycles *cycles)
{
    if (!cycles->usable) {
        return al_poll_clock();
    }
    uint64_t before = al_cycles_count();
    int64_t time = al_poll_clock();
    uint64_t cycle = al_cycles_count();
    cycles->shortest = Py_MIN(cycles->shortest, cycle - before);
    if (cycle - before > cycles->shortest * INTERRUPTED) {
        return time;
    }
    if (cycle <= cycles->first_cycle || cycles->window == 0) {
        cycles->span = 0; /* It has been set back, or this is the first time. */
        begin_window(cycles, cycle, time, FIRST_WINDOW);
    }
    else if (time - cycles->first_time >= cycles->window) {
        measure(cycles, cycle, time);
    }
    cycles->cycle = cycle;
    cycles->time = time;
    return time;
}
