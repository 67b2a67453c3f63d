/* state.c: expands the X lists of state.h. */
#include "base/state.h"

#include <string.h>

#include "base/layout.h"

/* Private names that only one fast path uses.  In a Python without them that one is off. */
static const struct {
    const char *attribute;
    al_layout layout;
} dispensable[] = {
    {"_future_repr", AL_LAYOUT_FUTURE},
    {"_task_repr", AL_LAYOUT_TASK},
    {"_task_get_stack", AL_LAYOUT_TASK},
    {"_task_print_stack", AL_LAYOUT_TASK},
    {"_register_task", AL_LAYOUT_TASK},
    {"_unregister_task", AL_LAYOUT_TASK},
    {"_enter_task", AL_LAYOUT_TASK},
    {"_leave_task", AL_LAYOUT_TASK},
    {"future_add_to_awaited_by", AL_LAYOUT_TASK},
    {"future_discard_from_awaited_by", AL_LAYOUT_TASK},
};

/* An attribute was not found, with that exception pending.  0 or -1. */
static int
do_without(al_state *st, const char *attribute)
{
    for (size_t i = 0; i < sizeof(dispensable) / sizeof(dispensable[0]); i++) {
        if (strcmp(dispensable[i].attribute, attribute) == 0 &&
            PyErr_ExceptionMatches(PyExc_AttributeError)) {
            PyErr_Clear();
            al_layout_turn_off(st, dispensable[i].layout);
            return 0;
        }
    }
    return -1;
}

int
al_state_init(al_state *st)
{
#define X(name)                                                                        \
    st->str.name = PyUnicode_InternFromString(#name);                                  \
    if (st->str.name == NULL) {                                                        \
        return -1;                                                                     \
    }
    AL_NAMES(X)
#undef X

    static const struct {
        size_t offset;
        const char *module, *attribute;
    } imports[] = {
#define X(field, module, attribute) {offsetof(al_state, field), module, attribute},
        AL_IMPORTS(X)
#undef X
    };
    for (size_t i = 0; i < sizeof(imports) / sizeof(imports[0]); i++) {
        PyObject *module = PyImport_ImportModule(imports[i].module);
        if (module == NULL) {
            return -1;
        }
        PyObject *value = PyObject_GetAttrString(module, imports[i].attribute);
        Py_DECREF(module);
        if (value == NULL && do_without(st, imports[i].attribute) < 0) {
            return -1;
        }
        *(PyObject **)(void *)((char *)st + imports[i].offset) = value;
    }

#if PY_VERSION_HEX >= 0x030C0000
    st->eager_task_factory =
        PyObject_GetAttrString(st->asyncio_tasks, "eager_task_factory");
    if (st->eager_task_factory == NULL) {
        return -1;
    }
#endif
    st->minus_one = PyLong_FromLong(-1);
    st->empty_tuple = PyTuple_New(0);
    st->addrinfo_templates = PyDict_New();
    if (st->addrinfo_templates == NULL) {
        return -1;
    }
    st->kwnames_context = PyTuple_Pack(1, st->str.context);
    st->kwnames_warn_on_full_buffer = Py_BuildValue("(s)", "warn_on_full_buffer");
    bool failed = st->minus_one == NULL || st->empty_tuple == NULL ||
                  st->kwnames_context == NULL ||
                  st->kwnames_warn_on_full_buffer == NULL;
    return failed ? -1 : 0;
}

int
al_state_traverse(al_state *st, visitproc visit, void *arg)
{
#define X(name) Py_VISIT(st->name##_type);
    AL_TYPES(X)
#undef X
#define X(field, module, attribute) Py_VISIT(st->field);
    AL_IMPORTS(X)
#undef X
    Py_VISIT(st->addrinfo_templates);
    Py_VISIT(st->deque_append);
    Py_VISIT(st->deque_popleft);
    Py_VISIT(st->closures.globals);
    for (int i = 0; i < AL_CLOSURE_KINDS; i++) {
        Py_VISIT(st->closures.codes[i]);
    }
    Py_VISIT(st->ensure.function);
    Py_VISIT(st->wait_inner);
    Py_VISIT(st->misuse_found);
    Py_VISIT(st->warn_unawaited);
    Py_VISIT(st->watched);
    Py_VISIT(st->create_task);
    Py_VISIT(st->create_task_code);
    Py_VISIT(st->asyncio_ThreadSafeHandle);
    Py_VISIT(st->selector_type);
    Py_VISIT(st->selector_select);
    for (int i = 0; i < AL_WATCHED_MODULES; i++) {
        Py_VISIT(st->watched_globals[i]);
    }
    Py_VISIT(st->eager_task_factory);
    for (int i = 0; i < AL_WATCHED_STREAM_NAMES; i++) {
        Py_VISIT(st->stream_functions[i]);
    }
    Py_VISIT(st->jobs.module);
    for (int i = 0; i < AL_JOB_TYPES; i++) {
        Py_VISIT(st->jobs.types[i]);
    }
    for (int i = 0; i < AL_JOB_FUNCTIONS; i++) {
        Py_VISIT(st->jobs.functions[i]);
    }
    Py_VISIT(st->adopted_reader);
    Py_VISIT(st->tls.object_type);
    Py_VISIT(st->tls.again);
    Py_VISIT(st->tls.mended);
    Py_VISIT(st->tls.wrapped);
    Py_VISIT(st->tls.handshake);
    Py_VISIT(st->tls.flushing);
    Py_VISIT(st->tls.shutdown);
    return 0;
}

void
al_state_clear(al_state *st)
{
#define X(name) Py_CLEAR(st->name##_type);
    AL_TYPES(X)
#undef X
#define X(field, module, attribute) Py_CLEAR(st->field);
    AL_IMPORTS(X)
#undef X
#define X(name) Py_CLEAR(st->str.name);
    AL_NAMES(X)
#undef X
    Py_CLEAR(st->empty_tuple);
    Py_CLEAR(st->addrinfo_templates);
    Py_CLEAR(st->misuse_found);
    Py_CLEAR(st->warn_unawaited);
    Py_CLEAR(st->kwnames_context);
    Py_CLEAR(st->kwnames_warn_on_full_buffer);
    Py_CLEAR(st->kwnames_frame_summary);
    Py_CLEAR(st->watched);
    Py_CLEAR(st->create_task);
    Py_CLEAR(st->create_task_code);
    Py_CLEAR(st->asyncio_ThreadSafeHandle);
    Py_CLEAR(st->selector_type);
    Py_CLEAR(st->selector_select);
    for (int i = 0; i < AL_WATCHED_MODULES; i++) {
        Py_CLEAR(st->watched_globals[i]);
    }
    Py_CLEAR(st->eager_task_factory);
    for (int i = 0; i < AL_WATCHED_STREAM_NAMES; i++) {
        Py_CLEAR(st->stream_functions[i]);
    }
    Py_CLEAR(st->jobs.module);
    for (int i = 0; i < AL_JOB_TYPES; i++) {
        Py_CLEAR(st->jobs.types[i]);
    }
    for (int i = 0; i < AL_JOB_FUNCTIONS; i++) {
        Py_CLEAR(st->jobs.functions[i]);
    }
    Py_CLEAR(st->adopted_reader);
    Py_CLEAR(st->tls.object_type);
    Py_CLEAR(st->tls.again);
    Py_CLEAR(st->tls.mended);
    Py_CLEAR(st->tls.record);
    Py_CLEAR(st->tls.wrapped);
    Py_CLEAR(st->tls.handshake);
    Py_CLEAR(st->tls.flushing);
    Py_CLEAR(st->tls.shutdown);
    Py_CLEAR(st->minus_one);
    Py_CLEAR(st->deque_append);
    Py_CLEAR(st->deque_popleft);
    Py_CLEAR(st->closures.globals);
    for (int i = 0; i < AL_CLOSURE_KINDS; i++) {
        Py_CLEAR(st->closures.codes[i]);
    }
    Py_CLEAR(st->ensure.name);
    Py_CLEAR(st->ensure.function);
    Py_CLEAR(st->ensure.kwnames_loop);
    Py_CLEAR(st->wait_inner);
    Py_CLEAR(st->group.name);
    Py_CLEAR(st->group.context);
    Py_CLEAR(st->group.both);
}

int
al_state_add_type(PyObject *module, PyTypeObject **slot, PyType_Spec *spec,
                  PyObject *bases)
{
    PyObject *type = PyType_FromModuleAndSpec(module, spec, bases);
    if (type == NULL) {
        return -1;
    }
    *slot = (PyTypeObject *)type;
    al_never_count(type);
    return 0;
}
