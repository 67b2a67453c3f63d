/* state.h: the module state, written once as X lists.
 *
 * Each interpreter that imports aioloop._core has one al_state.  It owns the types,
 * the interned names, the objects taken from asyncio, and the free lists.  The lists
 * below are expanded for the struct, for traverse and for clear, so the three never
 * disagree.  There is no mutable static data anywhere else.
 *
 * Every al_loop holds a pointer to its state (`loop->st`); an object without a loop
 * of ours finds it with al_state_of. */
#ifndef AL_BASE_STATE_H
#define AL_BASE_STATE_H

#include "base/check.h"
#include "base/misuse.h"
#include "base/py.h"

/* Types made by this module. */
#define AL_TYPES(X)                                                                    \
    X(ReadPipeTransport)                                                               \
    X(WritePipeTransport)                                                              \
    X(EventLoop)                                                                       \
    X(QueueView)                                                                       \
    X(SlotHandle)                                                                      \
    X(SocketTransport)                                                                 \
    X(TransportSocket)                                                                 \
    X(Listener)                                                                        \
    X(Handle)                                                                          \
    X(TimerHandle)                                                                     \
    X(ThreadSafeHandle)                                                                \
    X(Future)                                                                          \
    X(FutureIter)                                                                      \
    X(Task)                                                                            \
    X(TaskStep)                                                                        \
    X(TaskSet)                                                                         \
    X(Job)                                                                             \
    X(SockOp)                                                                          \
    X(StopIteration)                                                                   \
    X(StreamRead)                                                                      \
    X(Primitive)                                                                       \
    X(Accelerated)                                                                     \
    X(Closure)                                                                         \
    X(StreamReaderMethod)                                                              \
    X(DatagramTransport)                                                               \
    X(TlsTransport)                                                                    \
    X(VirtualClock)                                                                    \
    X(Stack)

/* What task/registry.c takes from each version's bookkeeping of tasks. */
#if PY_VERSION_HEX >= 0x030E0000
#define AL_REGISTRY_IMPORTS(X)                                                         \
    X(register_task, "_asyncio", "_register_task")                                     \
    X(unregister_task, "_asyncio", "_unregister_task")                                 \
    X(enter_task, "_asyncio", "_enter_task")                                           \
    X(leave_task, "_asyncio", "_leave_task")                                           \
    X(swap_current_task, "_asyncio", "_swap_current_task")                             \
    X(current_task, "_asyncio", "current_task")                                        \
    X(add_awaited_by, "_asyncio", "future_add_to_awaited_by")                          \
    X(discard_awaited_by, "_asyncio", "future_discard_from_awaited_by")
#else
#define AL_REGISTRY_IMPORTS(X) X(current_tasks, "_asyncio", "_current_tasks")
#endif

/* Objects taken from other modules at import: X(field, module, attribute). */
#define AL_IMPORTS(X)                                                                  \
    AL_REGISTRY_IMPORTS(X)                                                             \
    X(future_repr, "asyncio.base_futures", "_future_repr")                             \
    X(task_repr, "asyncio.base_tasks", "_task_repr")                                   \
    X(task_get_stack, "asyncio.base_tasks", "_task_get_stack")                         \
    X(task_print_stack, "asyncio.base_tasks", "_task_print_stack")                     \
    X(iscoroutine, "asyncio.coroutines", "iscoroutine")                                \
    X(DatagramTransport, "asyncio.transports", "DatagramTransport")                    \
    X(ReadTransport, "asyncio.transports", "ReadTransport")                            \
    X(WriteTransport, "asyncio.transports", "WriteTransport")                          \
    X(set_result_unless_cancelled, "asyncio.futures", "_set_result_unless_cancelled")  \
    X(unix_events, "asyncio", "unix_events")                                           \
    X(Transport, "asyncio", "Transport")                                               \
    X(asyncio_Handle, "asyncio.events", "Handle")                                      \
    X(asyncio_TimerHandle, "asyncio.events", "TimerHandle")                            \
    X(asyncio_Future, "_asyncio", "Future")                                            \
    X(asyncio_Task, "_asyncio", "Task")                                                \
    X(SelectorEventLoop, "asyncio", "SelectorEventLoop")                               \
    X(BaseEventLoop, "asyncio.base_events", "BaseEventLoop")                           \
    X(CancelledError, "asyncio.exceptions", "CancelledError")                          \
    X(InvalidStateError, "asyncio.exceptions", "InvalidStateError")                    \
    X(format_handle, "asyncio.base_events", "_format_handle")                          \
    X(format_helpers, "asyncio", "format_helpers")                                     \
    X(base_events, "asyncio", "base_events")                                           \
    X(asyncio_events, "asyncio", "events")                                             \
    X(asyncio_tasks, "asyncio", "tasks")                                               \
    X(asyncio_futures, "asyncio", "futures")                                           \
    X(asyncio_coroutines, "asyncio", "coroutines")                                     \
    X(StackSummary, "traceback", "StackSummary")                                       \
    X(FrameSummary, "traceback", "FrameSummary")                                       \
    X(linecache, "traceback", "linecache")                                             \
    X(asyncio_constants, "asyncio", "constants")                                       \
    X(format_callback_source, "asyncio.format_helpers", "_format_callback_source")     \
    X(fileobj_to_fd, "selectors", "_fileobj_to_fd")                                    \
    X(deque, "collections", "deque")                                                   \
    X(heappush, "heapq", "heappush")                                                   \
    X(heappop, "heapq", "heappop")                                                     \
    X(set_wakeup_fd, "signal", "set_wakeup_fd")                                        \
    X(socket_getaddrinfo, "socket", "getaddrinfo")                                     \
    X(UnsupportedOperation, "io", "UnsupportedOperation")                              \
    X(SendfileNotAvailableError, "asyncio.exceptions", "SendfileNotAvailableError")    \
    X(FlowControlMixin, "asyncio.transports", "_FlowControlMixin")                     \
    X(BufferedProtocol, "asyncio", "BufferedProtocol")                                 \
    X(StreamReader, "asyncio", "StreamReader")                                         \
    X(StreamReaderProtocol, "asyncio", "StreamReaderProtocol")                         \
    X(IncompleteReadError, "asyncio.exceptions", "IncompleteReadError")                \
    X(LimitOverrunError, "asyncio.exceptions", "LimitOverrunError")                    \
    X(SSLProtocol, "asyncio.sslproto", "SSLProtocol")                                  \
    X(SSLProtocolState, "asyncio.sslproto", "SSLProtocolState")                        \
    X(SSLProtocolTransport, "asyncio.sslproto", "_SSLProtocolTransport")               \
    X(TransportSocket, "asyncio.trsock", "TransportSocket")                            \
    X(warnings, "asyncio.base_events", "warnings")                                     \
    X(partial, "functools", "partial")                                                 \
    X(asyncio_queues, "asyncio", "queues")                                             \
    X(ContextManagerMixin, "asyncio.locks", "_ContextManagerMixin")                    \
    X(Lock, "asyncio", "Lock")                                                         \
    X(Condition, "asyncio", "Condition")                                               \
    X(Event, "asyncio", "Event")                                                       \
    X(Semaphore, "asyncio", "Semaphore")                                               \
    X(BoundedSemaphore, "asyncio", "BoundedSemaphore")                                 \
    X(Queue, "asyncio", "Queue")                                                       \
    X(PriorityQueue, "asyncio", "PriorityQueue")                                       \
    X(LifoQueue, "asyncio", "LifoQueue")                                               \
    X(TaskGroup, "asyncio", "TaskGroup")                                               \
    X(QueueEmpty, "asyncio", "QueueEmpty")                                             \
    X(QueueFull, "asyncio", "QueueFull")                                               \
    X(get_running_loop, "_asyncio", "_get_running_loop")                               \
    X(socket_type, "socket", "socket")

/* Interned names: X(identifier).  al_str(st, name) gives the object. */
#define AL_NAMES(X)                                                                    \
    X(_asyncio_future_blocking)                                                        \
    X(_loop)                                                                           \
    X(add_done_callback)                                                               \
    X(remove_done_callback)                                                            \
    X(_release_waiter)                                                                 \
    X(_wait)                                                                           \
    X(coroutines)                                                                      \
    X(iscoroutine)                                                                     \
    X(FIRST_COMPLETED)                                                                 \
    X(FIRST_EXCEPTION)                                                                 \
    X(ALL_COMPLETED)                                                                   \
    X(Task)                                                                            \
    X(_process_events)                                                                 \
    X(_selector)                                                                       \
    X(select)                                                                          \
    X(cr_suspended)                                                                    \
    X(gi_suspended)                                                                    \
    X(cr_await)                                                                        \
    X(cr_frame)                                                                        \
    X(gi_yieldfrom)                                                                    \
    X(gi_frame)                                                                        \
    X(ag_suspended)                                                                    \
    X(_scheduled)                                                                      \
    X(_when)                                                                           \
    X(_cancelled)                                                                      \
    X(_run_once)                                                                       \
    X(call_at)                                                                         \
    X(datagram_received)                                                               \
    X(error_received)                                                                  \
    X(pipe)                                                                            \
    X(func)                                                                            \
    X(getaddrinfo)                                                                     \
    X(sendfile)                                                                        \
    X(call_soon)                                                                       \
    X(cancel)                                                                          \
    X(get_event_loop)                                                                  \
    X(get_loop)                                                                        \
    X(is_running)                                                                      \
    X(result)                                                                          \
    X(throw)                                                                           \
    X(CANCELLED)                                                                       \
    X(FINISHED)                                                                        \
    X(PENDING)                                                                         \
    X(call_exception_handler)                                                          \
    X(context)                                                                         \
    X(exception)                                                                       \
    X(future)                                                                          \
    X(get_debug)                                                                       \
    X(_source_traceback)                                                               \
    X(_warn_unawaited_coroutine)                                                       \
    X(handle)                                                                          \
    X(logger)                                                                          \
    X(message)                                                                         \
    X(source_traceback)                                                                \
    X(task)                                                                            \
    X(time)                                                                            \
    X(warning)                                                                         \
    X(_run)                                                                            \
    X(_handle_signal)                                                                  \
    X(_run_forever_setup)                                                              \
    X(_run_forever_cleanup)                                                            \
    X(_timer_handle_cancelled)                                                         \
    X(_accept_connection2)                                                             \
    X(_attach)                                                                         \
    X(_exception)                                                                      \
    X(_made)                                                                           \
    X(_maybe_resume_transport)                                                         \
    X(create_task)                                                                     \
    X(create_future)                                                                   \
    X(_app_protocol)                                                                   \
    X(_buffer)                                                                         \
    X(_call_connection_lost)                                                           \
    X(_read_ready)                                                                     \
    X(_detach)                                                                         \
    X(_eof)                                                                            \
    X(_limit)                                                                          \
    X(_paused)                                                                         \
    X(_stream_reader_wr)                                                               \
    X(_transport)                                                                      \
    X(_waiter)                                                                         \
    X(accept)                                                                          \
    X(buffer_updated)                                                                  \
    X(cancelled)                                                                       \
    X(close)                                                                           \
    X(connection_lost)                                                                 \
    X(connection_made)                                                                 \
    X(data_received)                                                                   \
    X(debug)                                                                           \
    X(eof_received)                                                                    \
    X(feed_data)                                                                       \
    X(fileno)                                                                          \
    X(get_buffer)                                                                      \
    X(get_extra_info)                                                                  \
    X(is_closing)                                                                      \
    X(done)                                                                            \
    X(pause_reading)                                                                   \
    X(pause_writing)                                                                   \
    X(peername)                                                                        \
    X(resume_writing)                                                                  \
    X(set_exception)                                                                   \
    X(set_result)                                                                      \
    X(socket)                                                                          \
    X(sockname)                                                                        \
    X(writelines)                                                                      \
    X(_app_protocol_is_buffer)                                                         \
    X(_app_reading_paused)                                                             \
    X(_app_writing_paused)                                                             \
    X(_call_eof_received)                                                              \
    X(_control_app_writing)                                                            \
    X(_control_ssl_reading)                                                            \
    X(_do_flush)                                                                       \
    X(_do_handshake)                                                                   \
    X(_do_read)                                                                        \
    X(_do_shutdown)                                                                    \
    X(_do_write)                                                                       \
    X(_incoming)                                                                       \
    X(_incoming_high_water)                                                            \
    X(_outgoing)                                                                       \
    X(_outgoing_high_water)                                                            \
    X(_process_outgoing)                                                               \
    X(_ssl_protocol)                                                                   \
    X(_ssl_reading_paused)                                                             \
    X(_ssl_writing_paused)                                                             \
    X(_sslobj)                                                                         \
    X(_start_shutdown)                                                                 \
    X(_state)                                                                          \
    X(_write_appdata)                                                                  \
    X(_waiters)                                                                        \
    X(_locked)                                                                         \
    X(locked)                                                                          \
    X(_value)                                                                          \
    X(_queue)                                                                          \
    X(_getters)                                                                        \
    X(_putters)                                                                        \
    X(_maxsize)                                                                        \
    X(_is_shutdown)                                                                    \
    X(_unfinished_tasks)                                                               \
    X(_finished)                                                                       \
    X(acquire)                                                                         \
    X(release)                                                                         \
    X(append)                                                                          \
    X(popleft)                                                                         \
    X(remove)                                                                          \
    X(pop)                                                                             \
    X(call_later)                                                                      \
    X(_adjust_thread_count)                                                            \
    X(_broken)                                                                         \
    X(_chain_future)                                                                   \
    X(_copy_future_state)                                                              \
    X(_default_executor)                                                               \
    X(_executor_shutdown_called)                                                       \
    X(_global_shutdown_lock)                                                           \
    X(_idle_semaphore)                                                                 \
    X(_max_workers)                                                                    \
    X(_shutdown)                                                                       \
    X(_shutdown_lock)                                                                  \
    X(_threads)                                                                        \
    X(_work_queue)                                                                     \
    X(_worker)                                                                         \
    X(call_soon_threadsafe)                                                            \
    X(put)                                                                             \
    X(submit)                                                                          \
    X(wrap_future)                                                                     \
    X(_bound_value)                                                                    \
    X(_cancel_message)                                                                 \
    X(_cancel_requested)                                                               \
    X(_make_cancelled_error)                                                           \
    X(_log_destroy_pending)                                                            \
    X(_tasks)                                                                          \
    X(_entered)                                                                        \
    X(_exiting)                                                                        \
    X(_aborting)                                                                       \
    X(_parent_task)                                                                    \
    X(_on_completed_fut)                                                               \
    X(_on_task_done)                                                                   \
    X(_set_task_name)                                                                  \
    X(add)                                                                             \
    X(_GatheringFuture)                                                                \
    X(current_task)                                                                    \
    X(set)                                                                             \
    X(clear)                                                                           \
    X(_write_backlog)                                                                  \
    X(_write_buffer_size)                                                              \
    X(pending)                                                                         \
    X(read)                                                                            \
    X(write)

struct al_loop;
struct al_names;    /* task/names.h: the numbers of default names */
struct al_standins; /* core/standin.h */
struct al_registry; /* task/registry.h: current task and all_tasks bookkeeping */

enum {
    AL_WATCHED_STREAM_NAMES = 13, /* see io/reader.c */
    AL_WATCHED_MODULES = 5,       /* see core/watch.c */
    AL_JOB_TYPES = 3,             /* see loop/jobs.c */
    AL_JOB_FUNCTIONS = 4,
};

/* The functions that C stands in for, and that functions of asyncio's make inside. */
enum {
    AL_CLOSURE_GATHERED, /* see prim/gather.c */
    AL_CLOSURE_WAITED,   /* see prim/wait.c */
    AL_CLOSURE_SHIELDED, /* see prim/shield.c, like the next two */
    AL_CLOSURE_UNSHIELD,
    AL_CLOSURE_UNAWAIT,
    AL_CLOSURE_KINDS,
};

/* Dead objects of one type, chained through a word of their bodies; each keeps the
 * reference to its type. */
typedef struct {
    PyObject *first;
    int count;
} al_free_list;

typedef struct al_state {
#define X(name) PyTypeObject *name##_type;
    AL_TYPES(X)
#undef X
#define X(field, module, attribute) PyObject *field;
    AL_IMPORTS(X)
#undef X
    struct {
#define X(name) PyObject *name;
        AL_NAMES(X)
#undef X
    } str;

    uint32_t forks; /* forks that this process is the child of */

    /* What higher rooms give the scheduler, which includes none of them. */
    PyCFunction loop_time, loop_call_soon, loop_call_at, loop_create_future,
        loop_create_task, loop_run_once;     /* the methods, to notice replacements */
    void (*leave_current)(struct al_loop *); /* ends loop->current_task */
    int (*flush_writes)(struct al_loop *);   /* sends what waits in loop->cork */
    void (*send_corked)(struct al_loop *);  /* the same from outside; see core/cork.h */
    void (*end_blocking)(struct al_loop *); /* a loop closes or dies: diag/blocking */
    int (*follow_stall)(struct al_loop *);  /* watches a loop that runs and has a
                                            * threshold, and no other: 0 or -1; escapes */
    int (*task_step)(struct al_loop *, PyObject *, PyObject *, PyObject *);
    int (*task_wakeup)(struct al_loop *, PyObject *, PyObject *, PyObject *);
    int (*future_call)(struct al_loop *, PyObject *, PyObject *, PyObject *);
    int (*stream_readable)(struct al_loop *, PyObject *, PyObject *, PyObject *);
    PyObject *(*task_coro)(PyObject *); /* a task's coroutine, borrowed or NULL */
    PyObject *(*task_of_callback)(const struct al_state *, PyObject *); /* see task.h */
    PyObject *(*task_name)(PyObject *); /* its name, or the number of a default one */
    PyObject *(*stream_protocol)(PyObject *); /* a stream's protocol, the same */

    /* What core/watch.h and core/standin.h look after. */
    struct al_standins *standins;
    PyObject *watched;             /* a class */
    unsigned int seen_watched_tag; /* by al_standin_look */
    /* Of asyncio's _FlowControlMixin, as long as it has asyncio's methods. */
    unsigned int seen_transports_tag;
    bool handle_cancel_replaced; /* of any of asyncio's handles */
    /* BaseEventLoop.create_task and its code at the last look, or NULL. */
    PyObject *create_task, *create_task_code;
    PyObject *watched_globals[AL_WATCHED_MODULES];
#if PY_VERSION_HEX < 0x030C0000
    uint64_t seen_globals[AL_WATCHED_MODULES];
#endif
    int dict_watcher;                   /* its number plus 1, 0: none */
    PyObject *asyncio_ThreadSafeHandle; /* NULL before 3.14 */
    PyTypeObject *selector_type;        /* LibevSelector, NULL until it is known */
    PyObject *selector_select;          /* its select, to notice another one */

    PyObject *eager_task_factory; /* asyncio's, NULL before 3.12 */
    PyMethodDef *loop_methods;    /* EventLoop's table, made of several rooms' tables */
    PyObject *empty_tuple;
    PyObject
        *addrinfo_templates; /* loop/sockets.c: what getaddrinfo gives for literals */
    PyObject *minus_one;
    PyObject *deque_append, *deque_popleft; /* see prim/primitive.c */
    struct {
        PyObject *globals;                 /* of asyncio.tasks */
        PyObject *codes[AL_CLOSURE_KINDS]; /* of inner functions; NULL: not asyncio's */
    } closures;                            /* see prim/closure.c */
    struct {
        PyObject *name, *function; /* the latter NULL if it is not asyncio's */
        PyObject *kwnames_loop;
    } ensure;             /* see prim/ensure.c */
    bool gather_discards; /* asyncio has _discard_awaited_by */
    int shield_steps;     /* see prim/shield.c */
    PyObject *wait_inner; /* asyncio's _wait, or NULL: see prim/wait.c */
    struct {
        int steps;                       /* what asyncio's create_task() does */
        PyObject *name, *context, *both; /* tuples of names of arguments */
    } group;                             /* see prim/group.c */
    /* What io/reader.c stands in for and calls, and the classes' version tags when that
     * was last looked at. */
    PyObject *stream_functions[AL_WATCHED_STREAM_NAMES];
    PyObject *adopted_reader; /* the class of adopted readers */
    unsigned int seen_reader_tag, seen_reader_protocol_tag;
    bool streams_intact;
    /* The same of io/tls.c; object_type is NULL without the ssl module. */
    struct {
        PyObject *object_type, *again, *record;
        PyObject *mended; /* aioloop/_tls.py's class, or NULL: not yet imported */
        PyObject *wrapped, *handshake, *flushing, *shutdown; /* states */
        unsigned int seen_tags[3];
        bool intact;
    } tls;
    /* The same of loop/jobs.c; module is concurrent.futures.thread, once it is there. */
    struct {
        PyObject *module, *types[AL_JOB_TYPES], *functions[AL_JOB_FUNCTIONS];
        unsigned int seen_tags[AL_JOB_TYPES];
        bool intact;
    } jobs;
    PyObject *kwnames_context; /* ("context",): for vectorcall */
    PyObject *kwnames_warn_on_full_buffer;
    PyObject *kwnames_frame_summary; /* see core/stack.c */
    uint64_t compared_stacks;        /* by core/stack.c's check of itself */
    uint64_t compared_frames;
    bool public_frames;              /* stacks are walked by the public functions */
    unsigned layouts_off;            /* see base/layout.h: a bit each */
    struct al_describer *describers; /* see core/debug.h */
    struct al_registry *registry;
    struct al_names *names;
    int32_t running;                        /* so many loops run */
    struct al_loop *accepted_by;            /* borrowed: what last accepted, or NULL;
                                             * without a GIL it may be about to die */
    struct al_ticker *ticker;               /* see core/ticker.h; NULL: none yet */
    struct al_corks *corks;                 /* see core/cork.c; NULL: none yet */
    struct al_blocking_hook *blocking_hook; /* see diag/blocking.c; NULL: none yet */
    al_misuse misuse;                       /* of all loops, and of none */
    struct al_stalls *stalls;               /* see diag/stall.c; NULL: none yet */
    struct al_alarms *alarms;               /* see diag/alarm.c; NULL: none yet */
    struct al_replaced *replaced;           /* see prim/replace.c; NULL: none yet */
    PyObject *misuse_found;                 /* see core/misuse.c, like the next one */
    PyObject *warn_unawaited;               /* what warnings had, NULL: has still */

    /* Free lists of dead objects, chained through a word of their bodies; an object
     * in a list keeps the reference to its type. */
    struct al_handle *free_handles[3]; /* Handle, TimerHandle, ThreadSafeHandle */
    int free_handle_count[3];
    struct al_future *free_futures[2]; /* [0] Future, [1] Task */
    int free_future_count[2];
    al_free_list free_sockops, free_reads, free_primitives, free_stops;
    int socket_layout; /* 1: the struct of socket.socket is as io/sockops.c believes */
    PyObject *free_iters;
    int free_iter_count;
} al_state;

/* Fills names and imports.  0, or -1 with an exception. */
int al_state_init(al_state *st);
int al_state_traverse(al_state *st, visitproc visit, void *arg);
void al_state_clear(al_state *st);

/* Whose critical section guards what loops of several threads change in the state. */
static inline PyObject *
al_state_guard(const al_state *st)
{
    return (PyObject *)st->EventLoop_type;
}

/* The state behind a module object. */
static inline al_state *
al_state_of_module(PyObject *module)
{
    return (al_state *)PyModule_GetState(module);
}

/* The state behind a type of this module or a Python subclass of one; NULL with
 * TypeError for any other type.  A walk over the MRO: not for hot paths. */
al_state *al_state_of(PyTypeObject *type);

/* Makes a heap type that belongs to the module and stores it.  `bases` may be NULL, a
 * type or a tuple of types. */
int al_state_add_type(PyObject *module, PyTypeObject **slot, PyType_Spec *spec,
                      PyObject *bases);

#endif
