/* order.c: see order.h. */
#include "core/order.h"

#include "core/handle.h"
#include "core/sched.h"

enum { FIFO, SEEDED, PCT };
enum { FAIR = 256, NOTHING = -1 };

/* Slots of one lane, in a table by `key`. */
typedef struct {
    const void *key;
    size_t next; /* its first slot that has no place yet */
    size_t last;
    bool used;
} order_lane;

/* The priority of a task that PCT has seen. */
typedef struct {
    PyObject *reference; /* weak, owned: the address may come again */
    const void *key;
    int64_t priority; /* the higher, the earlier */
} order_rank;

struct al_order {
    int strategy;
    uint64_t random;
    uint64_t steps, most_steps; /* slots that have run; UINT64_MAX: no limit */
    PyObject *exceeded;         /* what to call then, or NULL */
    uint64_t task_steps;        /* of these, steps of tasks */
    uint64_t inject_at;         /* before this one of them ... */
    PyObject *inject;           /* ... this is called with the task, or NULL */

    /* For one iteration. */
    size_t capacity;  /* of these three */
    size_t *from;     /* the slot that comes to a place */
    size_t *lane_of;  /* where in `lanes` a slot's is */
    size_t *follower; /* the next slot of the same lane */
    order_lane *lanes;

    /* PCT. */
    order_rank *ranks;
    size_t ranks_length, ranks_capacity;
    uint64_t *changes; /* the steps at which priorities change, in no order */
    size_t changes_length;
    int64_t lowest;    /* priority that has been given */
    int64_t loop_rank; /* the loop's own lane */
    const void *last_key;
    size_t in_a_row;
};

/* --- chance ---------------------------------------------------------------------------- */

/* Steele, Lea and Flood's SplitMix64: neighbouring seeds give unlike numbers. */
uint64_t
al_order_random(uint64_t *state)
{
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static uint64_t
draw(al_order *order)
{
    return al_order_random(&order->random);
}

static size_t
draw_below(al_order *order, size_t n)
{
    return (size_t)(draw(order) % n);
}

/* --- lanes ------------------------------------------------------------------------------- */

/* The task that a slot runs, or NULL.  Borrowed.  Steps of tasks of asyncio's own class are
 * handles, and so are those of ours where somebody has replaced call_soon; wake-ups are
 * handles, too, or callbacks of a future. */
static PyObject *
task_of(const al_state *st, const al_slot *slot)
{
    if (slot->run == st->task_step || slot->run == st->task_wakeup) {
        return slot->self;
    }
    if (slot->run == st->future_call) {
        return st->task_of_callback(st, slot->self);
    }
    if (!al_handle_is_run_by(slot->run) ||
        !PyObject_TypeCheck(slot->self, st->Handle_type)) {
        return NULL;
    }
    PyObject *callback = ((const al_handle *)(const void *)slot->self)->callback;
    return callback == NULL ? NULL : st->task_of_callback(st, callback);
}

/* What tells a slot's lane apart; NULL is the loop's own.  A handle that gets nothing but a
 * future is its callback, or a wake-up; of futures in Python both are the loop's own. */
static const void *
key_of(const al_state *st, const al_slot *slot)
{
    if (slot->run == st->task_wakeup || slot->run == st->future_call) {
        return slot->arg != NULL ? slot->arg : slot->self;
    }
    if (al_handle_is_run_by(slot->run) &&
        PyObject_TypeCheck(slot->self, st->Handle_type)) {
        const al_handle *handle = (const al_handle *)(const void *)slot->self;
        PyTypeObject *future_type = (PyTypeObject *)(void *)st->asyncio_Future;
        if (handle->one_arg) {
            return PyObject_TypeCheck(handle->args, future_type) ? handle->args : NULL;
        }
    }
    return task_of(st, slot);
}

static size_t
hash(const void *key)
{
    uint64_t z = (uint64_t)(uintptr_t)key * 0x9E3779B97F4A7C15u;
    return (size_t)(z >> 32);
}

/* Room for an iteration of n slots.  0, or -1 with MemoryError. */
static int
reserve(al_order *order, size_t n)
{
    if (n <= order->capacity) {
        return 0;
    }
    size_t capacity = 64;
    while (capacity < n) {
        capacity *= 2;
    }
    size_t *indices = PyMem_New(size_t, 3 * capacity);
    order_lane *lanes = PyMem_New(order_lane, 2 * capacity);
    if (indices == NULL || lanes == NULL) {
        PyMem_Free(indices);
        PyMem_Free(lanes);
        PyErr_NoMemory();
        return -1;
    }
    PyMem_Free(order->from);
    PyMem_Free(order->lanes);
    order->from = indices;
    order->lane_of = indices + capacity;
    order->follower = indices + 2 * capacity;
    order->lanes = lanes;
    order->capacity = capacity;
    return 0;
}

/* Sorts the first n slots of the ring into lanes.  Returns how many there are. */
static size_t
find_lanes(al_loop *loop, size_t n)
{
    al_order *order = loop->order;
    size_t size = 2, found = 0;
    while (size < 2 * n) {
        size *= 2;
    }
    memset(order->lanes, 0, size * sizeof(*order->lanes));
    for (size_t i = 0; i < n; i++) {
        const void *key = key_of(loop->st, al_ring_at(&loop->ready, i));
        size_t at = hash(key) & (size - 1);
        while (order->lanes[at].used && order->lanes[at].key != key) {
            at = (at + 1) & (size - 1);
        }
        order_lane *lane = &order->lanes[at];
        if (lane->used) {
            order->follower[lane->last] = i;
            lane->last = i;
        }
        else {
            *lane = (order_lane){.key = key, .next = i, .last = i, .used = true};
            found++;
        }
        order->lane_of[i] = at;
    }
    return found;
}

/* Draws an interleaving: places for all slots, and each lane's in the order that it has. */
static int
interleave(al_loop *loop, size_t n)
{
    al_order *order = loop->order;
    if (reserve(order, n) < 0) {
        return -1;
    }
    if (find_lanes(loop, n) < 2) {
        return 0;
    }
    for (size_t i = 0; i < n; i++) {
        order->from[i] = i;
    }
    for (size_t i = n - 1; i > 0; i--) {
        size_t j = draw_below(order, i + 1), swap = order->from[i];
        order->from[i] = order->from[j];
        order->from[j] = swap;
    }
    for (size_t i = 0; i < n; i++) {
        order_lane *lane = &order->lanes[order->lane_of[order->from[i]]];
        order->from[i] = lane->next;
        if (lane->next != lane->last) {
            lane->next = order->follower[lane->next];
        }
    }
    al_ring_permute(&loop->ready, order->from, n);
    return 0;
}

/* --- priorities -------------------------------------------------------------------------- */

/* Where the key is in the table, or may come; the table is never full. */
static order_rank *
rank_at(const al_order *order, const void *key)
{
    size_t mask = order->ranks_capacity - 1, at = hash(key) & mask;
    while (order->ranks[at].key != NULL && order->ranks[at].key != key) {
        at = (at + 1) & mask;
    }
    return &order->ranks[at];
}

/* The lane's priority, to be read or set. */
static int64_t *
priority_of(al_order *order, const PyObject *task)
{
    if (task == NULL || order->ranks_capacity == 0) {
        return &order->loop_rank;
    }
    order_rank *rank = rank_at(order, task);
    return rank->key == NULL ? &order->loop_rank : &rank->priority;
}

static bool
is_alive(const order_rank *rank)
{
    return al_weakref_is(rank->reference, (PyObject *)(uintptr_t)rank->key);
}

/* Room for one more task; those that are gone leave.  0, or -1 with MemoryError. */
static int
reserve_rank(al_order *order)
{
    if (order->ranks_length * 2 < order->ranks_capacity) {
        return 0;
    }
    size_t alive = 0, old = order->ranks_capacity, capacity = 64;
    for (size_t i = 0; i < old; i++) {
        alive += order->ranks[i].key != NULL && is_alive(&order->ranks[i]);
    }
    while (capacity < 4 * alive + 4) {
        capacity *= 2;
    }
    order_rank *ranks = PyMem_Calloc(capacity, sizeof(*ranks)), *before = order->ranks;
    if (ranks == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    order->ranks = ranks;
    order->ranks_capacity = capacity;
    order->ranks_length = alive;
    for (size_t i = 0; i < old; i++) {
        if (before[i].key != NULL && is_alive(&before[i])) {
            *rank_at(order, before[i].key) = before[i];
        }
        else {
            Py_XDECREF(before[i].reference); /* a weak reference without a callback */
        }
    }
    PyMem_Free(before);
    return 0;
}

static bool
has_rank(const al_order *order, const PyObject *task)
{
    if (order->ranks_capacity == 0) {
        return false;
    }
    const order_rank *rank = rank_at(order, task);
    return rank->key != NULL && is_alive(rank);
}

/* Gives the task a priority if it has none.  0 or -1.  Escapes. */
static int
ensure_rank(al_loop *loop, PyObject *task)
{
    if (has_rank(loop->order, task)) {
        return 0;
    }
    PyObject *reference = PyWeakref_NewRef(task, NULL); /* escapes */
    if (reference == NULL) {
        return -1;
    }
    al_order *order = loop->order;
    if (order == NULL || reserve_rank(order) < 0) {
        Py_DECREF(reference);
        return order == NULL ? 0 : -1;
    }
    order_rank *rank = rank_at(order, task);
    order->ranks_length += rank->key == NULL;
    Py_XSETREF(rank->reference, reference);
    rank->key = task;
    rank->priority = (int64_t)(draw(order) >> 1);
    return 0;
}

/* Gives one to each task among the first n slots.  0 or -1.  Escapes. */
static int
ensure_ranks(al_loop *loop, size_t n)
{
    const al_order *order = loop->order;
    int status = 0;
    for (size_t i = 0; i < n && i < al_ring_len(&loop->ready) && status == 0; i++) {
        PyObject *task = Py_XNewRef(task_of(loop->st, al_ring_at(&loop->ready, i)));
        if (task != NULL) {
            status = ensure_rank(loop, task); /* escapes */
            Py_DECREF(task);                  /* escapes */
        }
        if (loop->order != order) {
            break;
        }
    }
    return status;
}

/* The slot among the first n whose lane has the highest priority. */
static size_t
choose(al_loop *loop, size_t n)
{
    al_order *order = loop->order;
    size_t best = n;
    int64_t highest = 0;
    for (size_t i = 0; i < n; i++) {
        if (order->lanes[order->lane_of[i]].next != i) {
            continue; /* Others of its lane come first. */
        }
        const PyObject *task = task_of(loop->st, al_ring_at(&loop->ready, i));
        int64_t priority = *priority_of(order, task);
        if (best == n || priority > highest) {
            best = i;
            highest = priority;
        }
    }
    return best;
}

/* Whether the lane that is to run now has to fall below all. */
static bool
falls(al_order *order, const void *key)
{
    bool same = key == order->last_key && order->in_a_row > 0;
    order->in_a_row = same ? order->in_a_row + 1 : 1;
    order->last_key = key;
    for (size_t i = 0; i < order->changes_length; i++) {
        if (order->changes[i] == order->steps) {
            return true;
        }
    }
    return order->in_a_row > FAIR;
}

/* Puts the slot that PCT runs next in front. */
static int
elect(al_loop *loop, size_t n)
{
    al_order *order = loop->order;
    if (ensure_ranks(loop, n) < 0) { /* escapes */
        return -1;
    }
    n = al_ring_len(&loop->ready);
    if (loop->order != order || n == 0) {
        return 0;
    }
    if (reserve(order, n) < 0) {
        return -1;
    }
    (void)find_lanes(loop, n);
    size_t best = choose(loop, n);
    const PyObject *task = task_of(loop->st, al_ring_at(&loop->ready, best));
    if (falls(order, task)) {
        *priority_of(order, task) = --order->lowest;
        order->in_a_row = 0;
        best = choose(loop, n);
    }
    for (size_t i = 0; i <= best; i++) {
        order->from[i] = i == 0 ? best : i - 1;
    }
    al_ring_permute(&loop->ready, order->from, best + 1);
    return 0;
}

/* --- what the scheduler asks --------------------------------------------------------------- */

/* So many steps were not to be. */
static int
exceed(al_loop *loop)
{
    al_sched_settle(loop); /* escapes */
    al_order *order = loop->order;
    if (order == NULL) {
        return 0;
    }
    order->most_steps = UINT64_MAX; /* The program's clean-up may run. */
    if (order->exceeded == NULL) {
        return 0;
    }
    PyObject *function = Py_NewRef(order->exceeded);
    PyObject *result = PyObject_CallNoArgs(function); /* escapes */
    Py_DECREF(function);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

/* Calls the function that wants to see the task whose step comes; it sees the next one, too,
 * if it returns what is false.  0 or -1.  Escapes. */
static int
inject(al_loop *loop, size_t todo)
{
    al_order *order = loop->order;
    PyObject *task = NULL;
    for (size_t i = 0; i < todo && i < al_ring_len(&loop->ready) && task == NULL; i++) {
        PyObject *next = task_of(loop->st, al_ring_at(&loop->ready, i));
        if (next != NULL && order->task_steps++ >= order->inject_at) {
            task = Py_NewRef(next);
        }
    }
    if (task == NULL) {
        return 0;
    }
    PyObject *function = Py_NewRef(order->inject);
    al_sched_settle(loop);                                    /* escapes */
    PyObject *answer = PyObject_CallOneArg(function, task);   /* escapes */
    int done = answer == NULL ? -1 : PyObject_IsTrue(answer); /* escapes */
    Py_XDECREF(answer);
    Py_DECREF(function);
    Py_DECREF(task); /* escapes */
    if (done > 0 && loop->order == order) {
        Py_CLEAR(order->inject); /* escapes */
    }
    return done < 0 ? -1 : 0;
}

int
al_order_begin(al_loop *loop, size_t *todo)
{
    al_order *order = loop->order;
    if (order->steps >= order->most_steps) {
        return exceed(loop); /* escapes */
    }
    size_t n = *todo;
    int status = 0;
    if (order->strategy == PCT) {
        *todo = 1;
        status = elect(loop, n); /* escapes */
    }
    else if (order->strategy == SEEDED && n > 1) {
        status = interleave(loop, n);
    }
    if (status == 0 && loop->order == order && order->inject != NULL) {
        status = inject(loop, *todo); /* escapes */
    }
    if (loop->order == order) {
        order->steps += *todo;
    }
    return status;
}

int
al_order_traverse(const al_loop *loop, visitproc visit, void *arg)
{
    if (loop->order != NULL) {
        Py_VISIT(loop->order->exceeded);
        Py_VISIT(loop->order->inject);
    }
    return 0;
}

/* Escapes. */
static void
release(al_order *order)
{
    for (size_t i = 0; i < order->ranks_capacity; i++) {
        Py_XDECREF(order->ranks[i].reference);
    }
    Py_XDECREF(order->exceeded); /* escapes */
    Py_XDECREF(order->inject);
    PyMem_Free(order->from);
    PyMem_Free(order->lanes);
    PyMem_Free(order->ranks);
    PyMem_Free(order->changes);
    PyMem_Free(order);
}

void
al_order_free(al_loop *loop)
{
    al_order *order = loop->order;
    if (order != NULL) {
        loop->order = NULL;
        AL_STORE(loop->debug.switches,
                 loop->debug.switches & ~(unsigned)AL_DEBUG_ORDER);
        release(order); /* escapes */
    }
}

/* Draws the steps at which priorities change.  0, or -1 with MemoryError. */
static int
draw_changes(al_order *order, size_t count, size_t length)
{
    order->changes = PyMem_New(uint64_t, count + 1);
    if (order->changes == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (size_t i = 0; i < count; i++) {
        order->changes[i] = draw_below(order, length);
    }
    order->changes_length = count;
    order->loop_rank = (int64_t)(draw(order) >> 1);
    return 0;
}

PyDoc_STRVAR(
    set_order_doc,
    "_set_order($module, loop, strategy, seed, changes, length, most_steps,\n"
    "           exceeded, /)\n--\n\n"
    "How the loop chooses among what is ready: 0 first in, first out, 1 seeded,\n"
    "2 PCT, with so many changes of priorities in the first `length` steps.\n\n"
    "exceeded() is called instead of a step after `most_steps`, below 0: never.");

static PyObject *
core_set_order(PyObject *module, PyObject *args)
{
    al_loop *loop;
    int strategy;
    unsigned long long seed;
    Py_ssize_t changes, length;
    long long most;
    PyObject *exceeded;
    if (!PyArg_ParseTuple(args, "O!iKnnLO:_set_order",
                          al_state_of_module(module)->EventLoop_type, &loop, &strategy,
                          &seed, &changes, &length, &most, &exceeded)) {
        return NULL;
    }
    if (strategy < FIFO || strategy > PCT || changes < 0 || length < 1) {
        PyErr_SetString(PyExc_ValueError, "no such order");
        return NULL;
    }
    al_order *order = PyMem_Calloc(1, sizeof(*order));
    if (order == NULL) {
        return PyErr_NoMemory();
    }
    order->strategy = strategy;
    order->random = seed;
    order->most_steps = most < 0 ? UINT64_MAX : (uint64_t)most;
    order->exceeded = exceeded == Py_None ? NULL : Py_NewRef(exceeded);
    if (draw_changes(order, (size_t)changes, (size_t)length) < 0) {
        release(order);
        return NULL;
    }
    al_order *old = loop->order;
    loop->order = order;
    AL_STORE(loop->debug.switches, loop->debug.switches | AL_DEBUG_ORDER);
    if (old != NULL) {
        release(old); /* escapes */
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(
    inject_doc,
    "_inject($module, loop, function, number, /)\n--\n\n"
    "Call function(task) before the step of a task with this number, and before\n"
    "each later one until it returns True. Needs _set_order().");

static PyObject *
core_inject(PyObject *module, PyObject *args)
{
    al_loop *loop;
    PyObject *function;
    long long number;
    if (!PyArg_ParseTuple(args, "O!OL:_inject",
                          al_state_of_module(module)->EventLoop_type, &loop, &function,
                          &number)) {
        return NULL;
    }
    if (loop->order == NULL || number < 0) {
        PyErr_SetString(PyExc_ValueError, "an order and a number are needed");
        return NULL;
    }
    loop->order->inject_at = (uint64_t)number;
    Py_XSETREF(loop->order->inject, Py_NewRef(function)); /* escapes */
    Py_RETURN_NONE;
}

PyDoc_STRVAR(steps_doc, "_steps($module, loop, /)\n--\n\n"
                        "How many slots the loop has run since _set_order(), or None.");

static PyObject *
core_steps(PyObject *module, PyObject *arg)
{
    const al_loop *loop = al_loop_check(al_state_of_module(module), arg);
    if (loop == NULL || loop->order == NULL) {
        Py_RETURN_NONE;
    }
    return PyLong_FromUnsignedLongLong(loop->order->steps);
}

PyMethodDef al_order_methods[] = {
    {"_set_order", core_set_order, METH_VARARGS, set_order_doc},
    {"_inject", core_inject, METH_VARARGS, inject_doc},
    {"_steps", core_steps, METH_O, steps_doc},
    {NULL, NULL, 0, NULL},
};
