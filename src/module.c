/* module.c: the module aioloop._core: definition, execution, traverse, clear. */
#include "base/layout.h"
#include "base/state.h"
#include "core/cork.h"
#include "core/debug.h"
#include "core/handle.h"
#include "core/misuse.h"
#include "core/order.h"
#include "core/poll.h"
#include "core/stack.h"
#include "core/standin.h"
#include "core/ticker.h"
#include "core/virtual.h"
#include "core/watch.h"
#include "diag/alarm.h"
#include "diag/blocking.h"
#include "diag/stall.h"
#include "diag/knock.h"
#include "diag/leaks.h"
#include "diag/waits.h"
#include "io/dgram.h"
#include "io/pipe.h"
#include "io/server.h"
#include "io/reader.h"
#include "io/sockops.h"
#include "io/stream.h"
#include "io/tls.h"
#include "loop/jobs.h"
#include "loop/loop.h"
#include "prim/primitive.h"
#include "prim/replace.h"
#include "task/future.h"
#include "task/names.h"
#include "task/registry.h"
#include "task/task.h"

static struct PyModuleDef module_def;

al_state *
al_state_of(PyTypeObject *type)
{
    PyObject *module = PyType_GetModuleByDef(type, &module_def);
    return module == NULL ? NULL : al_state_of_module(module);
}

PyDoc_STRVAR(libev_version_doc,
             "libev_version($module, /)\n--\n\n"
             "Return libev's version and whose it is: '4.33 bundled' if it is a\n"
             "part of this module, '4.33 system' if it is the system's library.");

static PyObject *
core_libev_version(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    return al_poll_version();
}

/* os.register_at_fork's after_in_child: loops compare the count before they poll. */
static PyObject *
core_after_fork(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    al_state_of_module(module)->forks++;
    al_ticker_after_fork(al_state_of_module(module), true);
    Py_RETURN_NONE;
}

/* os.register_at_fork's after_in_parent. */
static PyObject *
core_after_fork_in_parent(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    al_ticker_after_fork(al_state_of_module(module), false);
    Py_RETURN_NONE;
}

/* os.register_at_fork's before: both sides would send what is corked. */
static PyObject *
core_before_fork(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    al_ticker_before_fork(al_state_of_module(module));
    Py_RETURN_NONE;
}

static int
register_at_fork(PyObject *module)
{
    int status = -1;
    PyObject *os = PyImport_ImportModule("os"), *kwargs = NULL, *result = NULL;
    PyObject *before = PyObject_GetAttrString(module, "_before_fork");
    PyObject *after = PyObject_GetAttrString(module, "_after_fork");
    PyObject *parent = PyObject_GetAttrString(module, "_after_fork_in_parent");
    PyObject *fork = os == NULL ? NULL : PyObject_GetAttrString(os, "register_at_fork");
    if (before != NULL && after != NULL && parent != NULL && fork != NULL) {
        kwargs = Py_BuildValue("{s:O,s:O,s:O}", "before", before, "after_in_child",
                               after, "after_in_parent", parent);
    }
    if (kwargs != NULL) {
        result = PyObject_Call(fork, al_state_of_module(module)->empty_tuple, kwargs);
        status = result == NULL ? -1 : 0;
    }
    Py_XDECREF(os);
    Py_XDECREF(before);
    Py_XDECREF(after);
    Py_XDECREF(parent);
    Py_XDECREF(fork);
    Py_XDECREF(kwargs);
    Py_XDECREF(result);
    return status;
}

PyDoc_STRVAR(watch_doc,
             "_watch($module, selector, watched, /)\n--\n\n"
             "Tell of the loops' selector class, and of a class that derives from it\n"
             "and from asyncio.TimerHandle.");

static PyObject *
core_watch(PyObject *module, PyObject *args)
{
    al_state *st = al_state_of_module(module);
    PyObject *selector, *watched;
    if (!PyArg_ParseTuple(args, "O!O!:_watch", &PyType_Type, &selector, &PyType_Type,
                          &watched)) {
        return NULL;
    }
    Py_XSETREF(st->selector_select, PyObject_GetAttr(selector, st->str.select));
    if (st->selector_select == NULL || al_watch_class(st, watched) < 0) {
        return NULL;
    }
    Py_XSETREF(st->selector_type, (PyTypeObject *)Py_NewRef(selector));
    if (al_standin_look(st, true) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyMethodDef core_methods[] = {
    {"_before_fork", core_before_fork, METH_NOARGS, NULL},
    {"_watch", core_watch, METH_VARARGS, watch_doc},
    {"_after_fork", core_after_fork, METH_NOARGS, NULL},
    {"_after_fork_in_parent", core_after_fork_in_parent, METH_NOARGS, NULL},
    {"libev_version", core_libev_version, METH_NOARGS, libev_version_doc},
    {NULL, NULL, 0, NULL},
};

/* The class of ours, or asyncio's own where there is none (base/layout.h). */
static int
add_class(PyObject *module, const char *name, PyTypeObject *ours, PyObject *asyncios)
{
    return PyModule_AddObjectRef(module, name,
                                 ours != NULL ? (PyObject *)ours : asyncios);
}

static int
core_exec(PyObject *module)
{
    al_state *st = al_state_of_module(module);
    al_stall_init(st);
    if (al_state_init(st) < 0 || al_watch_init(st) < 0 ||
        PyModule_AddFunctions(module, al_layout_methods) < 0 ||
        PyModule_AddFunctions(module, al_stack_methods) < 0 ||
        PyModule_AddFunctions(module, al_blocking_methods) < 0 ||
        PyModule_AddFunctions(module, al_stall_methods) < 0 ||
        PyModule_AddFunctions(module, al_alarm_methods) < 0 ||
        PyModule_AddFunctions(module, al_misuse_methods) < 0 ||
        PyModule_AddFunctions(module, al_knock_methods) < 0 ||
        PyModule_AddFunctions(module, al_waits_methods) < 0 ||
        PyModule_AddFunctions(module, al_leaks_methods) < 0 ||
        PyModule_AddFunctions(module, al_virtual_methods) < 0 ||
        PyModule_AddFunctions(module, al_order_methods) < 0 ||
        PyModule_AddFunctions(module, al_trace_methods) < 0 ||
        PyModule_AddFunctions(module, al_faults_methods) < 0 ||
        PyModule_AddFunctions(module, al_replace_methods) < 0 ||
        al_primitive_init_type(module, st) < 0 ||
        al_replace_init_type(module, st) < 0 || al_virtual_init_type(module, st) < 0 ||
        al_stack_init(module, st) < 0 || al_handle_init_types(module, st) < 0 ||
        al_future_init_types(module, st) < 0 || al_task_init_types(module, st) < 0 ||
        al_registry_init(module, st) < 0 || al_names_init(st) < 0 ||
        al_sockop_init_types(module, st) < 0 || al_jobs_init_type(module, st) < 0 ||
        al_reader_init_types(module, st) < 0 || al_tls_init_type(module, st) < 0 ||
        al_dgram_init_types(module, st) < 0 || al_pipe_init_types(module, st) < 0 ||
        al_loop_init_types(module, st) < 0 || al_stream_init_type(module, st) < 0 ||
        al_server_init_type(module, st) < 0) {
        return -1;
    }
    al_blocking_init(st);
    al_poll_init();
    bool handles = !al_layout_is_off(st, AL_LAYOUT_HANDLE);
    if (PyModule_AddType(module, st->EventLoop_type) < 0 ||
        add_class(module, "Handle", handles ? st->Handle_type : NULL,
                  st->asyncio_Handle) < 0 ||
        add_class(module, "TimerHandle", st->TimerHandle_type,
                  st->asyncio_TimerHandle) < 0 ||
        add_class(module, "_Handle", st->Handle_type, NULL) < 0 ||
        add_class(module, "Future", st->Future_type, st->asyncio_Future) < 0 ||
        add_class(module, "Task", st->Task_type, st->asyncio_Task) < 0 ||
        PyModule_AddType(module, st->SocketTransport_type) < 0) {
        return -1;
    }
    if (al_cork_init(module) < 0 || al_ticker_init(module) < 0 ||
        al_standin_look(st, true) < 0) {
        return -1;
    }
    return register_at_fork(module);
}

static int
core_traverse(PyObject *module, visitproc visit, void *arg)
{
    al_state *st = al_state_of_module(module);
    int status = al_standin_traverse(st, visit, arg);
    status = status != 0 ? status : al_stall_traverse(st, visit, arg);
    status = status != 0 ? status : al_alarm_traverse(st, visit, arg);
    status = status != 0 ? status : al_replace_traverse(st, visit, arg);
    return status != 0 ? status : al_state_traverse(st, visit, arg);
}

static int
core_clear(PyObject *module)
{
    al_state *st = al_state_of_module(module);
    al_handle_clear_free_lists(st);
    al_future_clear_free_lists(st);
    al_sockop_clear_free_list(st);
    al_reader_clear_free_list(st);
    al_primitive_clear_free_list(st);
    al_replace_clear(st);
    al_registry_clear(st);
    al_names_clear(st);
    al_watch_free(st);
    al_standin_free(st);
    al_stall_clear(st);
    al_alarm_clear(st);
    al_state_clear(st);
    return 0;
}

static void
core_free(void *module)
{
    al_state *st = al_state_of_module(module);
    if (st != NULL) {
        (void)core_clear(module);
        al_ticker_free(st);
        al_cork_free(st);
        al_blocking_free(st);
        al_stall_free(st);
        al_alarm_free(st);
        al_debug_free(st);
        PyMem_Free(st->loop_methods);
        st->loop_methods = NULL;
    }
}

static PyModuleDef_Slot core_slots[] = {
    {Py_mod_exec, core_exec},
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#if PY_VERSION_HEX >= 0x030D0000
    {Py_mod_gil, Py_MOD_GIL_NOT_USED}, /* See src/README.md, "Without a GIL". */
#endif
    {0, NULL},
};

PyDoc_STRVAR(core_doc, "The C part of aioloop; see the package.");

static struct PyModuleDef module_def = {
    PyModuleDef_HEAD_INIT,       .m_name = "aioloop._core", .m_doc = core_doc,
    .m_size = sizeof(al_state),  .m_methods = core_methods, .m_slots = core_slots,
    .m_traverse = core_traverse, .m_clear = core_clear,     .m_free = core_free,
};

PyMODINIT_FUNC PyInit__core(void);

PyMODINIT_FUNC
PyInit__core(void)
{
    return PyModuleDef_Init(&module_def);
}
