/* faults.c: see faults.h. */
#include "core/faults.h"

#include <errno.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "core/poll.h"
#include "core/sched.h"
#include "core/trace.h"

enum { SHORT_IO, DELAY_IO, RESET, SLOW_CALLBACK, KINDS };
enum { TOLD = 64 };
static const uint64_t NONE = UINT64_MAX;

/* Which candidates have the fault. */
typedef struct {
    uint64_t random;
    uint64_t seen, hits;         /* candidates so far, and those that had it */
    uint64_t at;                 /* the number of the only one, or NONE */
    uint64_t some, of;           /* `some` of each `of`; 0 of 0: not in this way */
    uint64_t some_left, of_left; /* of those that come now */
    double chance;               /* of each */
} fault_lot;

/* Nanoseconds, drawn. */
typedef struct {
    int64_t least, most;
} fault_time;

/* A fault that has happened. */
typedef struct {
    int kind;
    unsigned call;
    int fd;
    int64_t when;  /* ns on the loop's clock */
    int64_t took;  /* ns: how late, how long */
    uint64_t step; /* the slot's number */
    size_t moved, size;
    PyObject *slot; /* owned: what ran (al_trace_last), or NULL; its end runs no code */
} fault_note;

/* An event that the loop has not heard of. */
typedef struct {
    int fd;
    int64_t until; /* ns on the clock */
    bool over;     /* the next event of the file is the one */
} fault_hold;

struct al_faults {
    fault_lot lots[KINDS];
    fault_time delay, slow;
    unsigned char *refused; /* by number: directions whose last call was refused */
    int refused_capacity;
    fault_hold *holds;
    size_t holds_length, holds_capacity;
    uint64_t count; /* of `told`, ever */
    fault_note told[TOLD];
};

/* --- lots ------------------------------------------------------------------------------ */

static uint64_t
draw_below(fault_lot *lot, uint64_t n)
{
    return al_order_random(&lot->random) % n;
}

/* Whether the next candidate has the fault. */
static bool
hits(fault_lot *lot)
{
    uint64_t number = lot->seen++;
    bool hit;
    if (lot->of > 0) {
        if (lot->of_left == 0) {
            lot->some_left = lot->some;
            lot->of_left = lot->of;
        }
        hit = draw_below(lot, lot->of_left) < lot->some_left;
        lot->some_left -= hit;
        lot->of_left--;
    }
    else if (lot->at != NONE) {
        hit = number == lot->at;
    }
    else {
        hit = (double)(al_order_random(&lot->random) >> 11) * 0x1p-53 < lot->chance;
    }
    lot->hits += hit;
    return hit;
}

static int64_t
draw_time(fault_lot *lot, fault_time range)
{
    uint64_t room = (uint64_t)(range.most - range.least);
    return range.least + (room == 0 ? 0 : (int64_t)draw_below(lot, room + 1));
}

/* Steals the reference. */
static void
tell_steal(const al_loop *loop, fault_note note)
{
    al_faults *faults = loop->faults;
    fault_note *place = &faults->told[faults->count++ % TOLD];
    PyObject *old = place->slot;
    note.when = loop->virtual == NULL ? 0 : al_virtual_nanoseconds(loop);
    uint64_t steps = al_trace_steps(loop);
    note.step = loop->in_slot && steps > 0 ? steps - 1 : steps;
    *place = note;
    Py_XDECREF(old);
}

/* --- system calls ---------------------------------------------------------------------- */

/* Whether the call would do something now. */
static bool
is_ready(int fd, unsigned call)
{
    struct pollfd one = {.fd = fd, .events = call & AL_CALL_IN ? POLLIN : POLLOUT};
    return poll(&one, 1, 0) > 0;
}

/* At most so many bytes, as far as that can be told. */
static size_t
could_move(int fd, unsigned call, size_t size)
{
    int waiting;
    if ((call & AL_CALL_STREAM) == 0) {
        return 1;
    }
    if ((call & AL_CALL_IN) == 0) {
        return size;
    }
    return ioctl(fd, FIONREAD, &waiting) < 0 || waiting < 0 ? 1
           : (size_t)waiting < size                         ? (size_t)waiting
                                                            : size;
}

/* The place for the number in `refused`, or NULL without memory. */
static unsigned char *
refused_place(al_faults *faults, int fd)
{
    if (fd >= faults->refused_capacity) {
        int capacity = (fd / 64 + 1) * 64;
        unsigned char *refused = PyMem_Realloc(faults->refused, (size_t)capacity);
        if (refused == NULL) {
            return NULL;
        }
        memset(refused + faults->refused_capacity, 0,
               (size_t)(capacity - faults->refused_capacity));
        faults->refused = refused;
        faults->refused_capacity = capacity;
    }
    return &faults->refused[fd];
}

/* Ends the connection, at both ends. */
static void
reset(int fd)
{
    const struct linger at_once = {.l_onoff = 1}; /* close() sends RST, too. */
    const struct sockaddr nobody = {.sa_family = AF_UNSPEC};
    struct sockaddr_storage own;
    socklen_t length = sizeof(own);
    bool ip = getsockname(fd, (struct sockaddr *)&own, &length) == 0 &&
              (own.ss_family == AF_INET || own.ss_family == AF_INET6);
    (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
    if (connect(fd, &nobody, sizeof(nobody)) < 0 && !ip) {
        (void)shutdown(fd, SHUT_RDWR);
    }
}

/* Has the call refused, or *size made less. */
static bool
shorten(al_loop *loop, int fd, unsigned call, size_t *size)
{
    al_faults *faults = loop->faults;
    fault_lot *lot = &faults->lots[SHORT_IO];
    unsigned char direction = call & AL_CALL_IN ? AL_READ : AL_WRITE;
    unsigned char *refused = refused_place(faults, fd);
    if (refused == NULL) {
        return false;
    }
    size_t most = could_move(fd, call, *size);
    bool again = (*refused & direction) != 0;
    *refused = (unsigned char)(*refused & ~direction);
    if ((again && most < 2) || !hits(lot)) {
        return false;
    }
    fault_note note = {.kind = SHORT_IO, .call = call, .fd = fd, .size = most};
    if (most < 2 || (!again && draw_below(lot, 4) == 0)) {
        *refused = (unsigned char)(*refused | direction);
        tell_steal(loop, note);
        errno = EAGAIN;
        return true;
    }
    note.moved = draw_below(lot, 4) == 0 ? 1 : 1 + (size_t)draw_below(lot, most - 1);
    tell_steal(loop, note);
    *size = note.moved;
    return false;
}

bool
al_faults_spoil(al_loop *loop, int fd, unsigned call, size_t *size)
{
    enum { CONNECTION = AL_CALL_STREAM | AL_CALL_SOCKET };
    al_faults *faults = loop->faults;
    if (*size == 0 || fd < 0 || !is_ready(fd, call)) {
        return false;
    }
    if ((call & CONNECTION) == CONNECTION && hits(&faults->lots[RESET])) {
        reset(fd);
        tell_steal(loop, (fault_note){.kind = RESET, .call = call, .fd = fd});
        errno = ECONNRESET;
        return true;
    }
    return shorten(loop, fd, call, size);
}

/* --- events ---------------------------------------------------------------------------- */

static fault_hold *
hold_of(al_faults *faults, int fd)
{
    for (size_t i = 0; i < faults->holds_length; i++) {
        if (faults->holds[i].fd == fd) {
            return &faults->holds[i];
        }
    }
    return NULL;
}

/* A place for one more, or NULL without memory. */
static fault_hold *
new_hold(al_faults *faults)
{
    if (faults->holds_length == faults->holds_capacity) {
        size_t capacity = faults->holds_capacity * 2 + 8;
        fault_hold *holds = PyMem_Realloc(faults->holds, capacity * sizeof(*holds));
        if (holds == NULL) {
            return NULL;
        }
        faults->holds = holds;
        faults->holds_capacity = capacity;
    }
    return &faults->holds[faults->holds_length++];
}

bool
al_faults_hold_back(al_loop *loop, int fd)
{
    al_faults *faults = loop->faults;
    if (faults == NULL || loop->virtual == NULL || fd == loop->wake.read_fd) {
        return false;
    }
    fault_hold *hold = hold_of(faults, fd);
    if (hold != NULL && !hold->over) {
        return true; /* A watcher that was set meanwhile. */
    }
    if (hold != NULL) {
        *hold = faults->holds[--faults->holds_length];
        return false;
    }
    fault_lot *lot = &faults->lots[DELAY_IO];
    if (!hits(lot)) {
        return false;
    }
    int64_t late = draw_time(lot, faults->delay);
    hold = new_hold(faults);
    if (hold == NULL) {
        return false;
    }
    *hold = (fault_hold){.fd = fd, .until = al_virtual_nanoseconds(loop) + late};
    tell_steal(loop, (fault_note){.kind = DELAY_IO, .fd = fd, .took = late});
    return true;
}

int64_t
al_faults_next(const al_loop *loop)
{
    const al_faults *faults = loop->faults;
    int64_t next = -1;
    if (faults == NULL || loop->virtual == NULL) {
        return -1;
    }
    for (size_t i = 0; i < faults->holds_length; i++) {
        int64_t left = faults->holds[i].until - al_virtual_nanoseconds(loop);
        if (!faults->holds[i].over && (next < 0 || left < next)) {
            next = Py_MAX(left, 0);
        }
    }
    return next;
}

void
al_faults_let_go(al_loop *loop)
{
    al_faults *faults = loop->faults;
    bool some = false;
    for (size_t i = 0; i < faults->holds_length; i++) {
        fault_hold *hold = &faults->holds[i];
        if (!hold->over && hold->until <= al_virtual_nanoseconds(loop)) {
            hold->over = some = true;
        }
    }
    if (some) {
        al_poll_resume(loop->poll);
    }
}

/* --- slots ----------------------------------------------------------------------------- */

void
al_faults_ran(al_loop *loop)
{
    fault_lot *lot = &loop->faults->lots[SLOW_CALLBACK];
    if (loop->virtual == NULL || !hits(lot)) {
        return;
    }
    int64_t took = draw_time(lot, loop->faults->slow);
    PyObject *pending = al_err_take();
    PyObject *slot = al_trace_last(loop);
    if (slot == NULL) {
        PyErr_Clear(); /* MemoryError: the fault is told without it. */
    }
    al_err_put_steal(pending);
    tell_steal(loop, (fault_note){.kind = SLOW_CALLBACK, .took = took, .slot = slot});
    al_virtual_pass(loop, took);
}

/* --- for aioloop.testing ---------------------------------------------------------------- */

int
al_faults_traverse(const al_loop *loop, visitproc visit, void *arg)
{
    for (size_t i = 0; loop->faults != NULL && i < TOLD; i++) {
        Py_VISIT(loop->faults->told[i].slot);
    }
    return 0;
}

/* Escapes. */
static void
release(al_faults *faults)
{
    for (size_t i = 0; i < TOLD; i++) {
        Py_XDECREF(faults->told[i].slot); /* escapes */
    }
    PyMem_Free(faults->refused);
    PyMem_Free(faults->holds);
    PyMem_Free(faults);
}

void
al_faults_free(al_loop *loop)
{
    al_faults *faults = loop->faults;
    loop->faults = NULL;
    if (faults != NULL) {
        release(faults); /* escapes */
    }
}

/* (some, of, chance, at) of a lot, at below 0: none.  For PyArg_ParseTuple. */
static int
read_lot(PyObject *item, void *result)
{
    unsigned long long some, of;
    double chance;
    long long at;
    if (!PyArg_ParseTuple(item, "KKdL:a lot", &some, &of, &chance, &at)) {
        return 0;
    }
    *(fault_lot *)result = (fault_lot){
        .some = some, .of = of, .chance = chance, .at = at < 0 ? NONE : (uint64_t)at};
    return 1;
}

PyDoc_STRVAR(
    set_faults_doc,
    "_set_faults($module, loop, seed, short_io, delay_io, reset, slow_callback,\n"
    "            delay, slow, /)\n--\n\n"
    "What goes wrong on the loop. The four kinds are (some, of, chance, at): which\n"
    "candidates; delay and slow are (least, most) nanoseconds.");

static PyObject *
core_set_faults(PyObject *module, PyObject *args)
{
    al_loop *loop;
    unsigned long long seed;
    al_faults wanted = {.count = 0};
    long long delay[2], slow[2];
    if (!PyArg_ParseTuple(args, "O!KO&O&O&O&(LL)(LL):_set_faults",
                          al_state_of_module(module)->EventLoop_type, &loop, &seed,
                          read_lot, &wanted.lots[SHORT_IO], read_lot,
                          &wanted.lots[DELAY_IO], read_lot, &wanted.lots[RESET],
                          read_lot, &wanted.lots[SLOW_CALLBACK], &delay[0], &delay[1],
                          &slow[0], &slow[1])) {
        return NULL;
    }
    if (delay[0] < 0 || delay[1] < delay[0] || slow[0] < 0 || slow[1] < slow[0]) {
        PyErr_SetString(PyExc_ValueError, "no such time");
        return NULL;
    }
    al_faults *faults = PyMem_New(al_faults, 1);
    if (faults == NULL) {
        return PyErr_NoMemory();
    }
    *faults = wanted;
    faults->delay = (fault_time){delay[0], delay[1]};
    faults->slow = (fault_time){slow[0], slow[1]};
    for (int i = 0; i < KINDS; i++) {
        uint64_t mixed = (uint64_t)seed + (uint64_t)i;
        faults->lots[i].random = al_order_random(&mixed);
    }
    al_faults *old = loop->faults;
    loop->faults = faults;
    AL_STORE(loop->debug.switches, loop->debug.switches | AL_DEBUG_TEST);
    if (loop->poll != NULL) {
        al_poll_have_faults(loop->poll);
    }
    if (old != NULL) {
        release(old); /* escapes */
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(
    faults_told_doc,
    "_faults_told($module, loop, /)\n--\n\n"
    "What has gone wrong: the numbers (hits, candidates) of the four kinds, and the "
    "last\n"
    "faults as (kind, call, fd, step, when, took, moved, size, slot), oldest first.");

static PyObject *
core_faults_told(PyObject *module, PyObject *arg)
{
    const al_loop *loop = al_loop_check(al_state_of_module(module), arg);
    const al_faults *faults = loop == NULL ? NULL : loop->faults;
    PyObject *numbers = PyList_New(0), *list = PyList_New(0), *result = NULL;
    for (int i = 0; faults != NULL && list != NULL && numbers != NULL && i < KINDS;
         i++) {
        PyObject *item = Py_BuildValue("(KK)", (unsigned long long)faults->lots[i].hits,
                                       (unsigned long long)faults->lots[i].seen);
        if (item == NULL || PyList_Append(numbers, item) < 0) {
            Py_CLEAR(numbers);
        }
        Py_XDECREF(item);
    }
    uint64_t first = faults == NULL || faults->count < TOLD ? 0 : faults->count - TOLD;
    for (uint64_t i = first; faults != NULL && list != NULL && i < faults->count; i++) {
        const fault_note *note = &faults->told[i % TOLD];
        PyObject *item = Py_BuildValue("(iIiKLLnnO)", note->kind, note->call, note->fd,
                                       (unsigned long long)note->step,
                                       (long long)note->when, (long long)note->took,
                                       (Py_ssize_t)note->moved, (Py_ssize_t)note->size,
                                       note->slot == NULL ? Py_None : note->slot);
        if (item == NULL || PyList_Append(list, item) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(item);
    }
    if (numbers != NULL && list != NULL) {
        result = PyTuple_Pack(2, numbers, list);
    }
    Py_XDECREF(numbers);
    Py_XDECREF(list);
    return result;
}

PyMethodDef al_faults_methods[] = {
    {"_set_faults", core_set_faults, METH_VARARGS, set_faults_doc},
    {"_faults_told", core_faults_told, METH_O, faults_told_doc},
    {NULL, NULL, 0, NULL},
};
