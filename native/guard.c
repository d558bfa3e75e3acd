/* UserGate and Guard: whether the way through C is open, or Python has to look. */
#include "hot.h"

static PyObject *gate_py_enter(PyObject *object, PyObject *nothing)
{
    (void)nothing;
    return PyBool_FromLong(gate_enter((UserGate *)object));
}

static PyObject *gate_py_leave(PyObject *object, PyObject *nothing)
{
    (void)nothing;
    gate_leave((UserGate *)object);
    Py_RETURN_NONE;
}

static void gate_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyMethodDef gate_methods[] = {
    {"enter", gate_py_enter, METH_NOARGS, "Begin a use; False if somebody is in one."},
    {"leave", gate_py_leave, METH_NOARGS, "End the use."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef gate_members[] = {
    {"is_in_use", Py_T_BOOL, offsetof(UserGate, is_in_use), Py_READONLY, NULL},
    {"thread", Py_T_ULONG, offsetof(UserGate, thread), Py_READONLY, NULL},
    {"uses", Py_T_ULONGLONG, offsetof(UserGate, uses), Py_READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot gate_slots[] = {
    {Py_tp_dealloc, gate_dealloc},
    {Py_tp_methods, gate_methods},
    {Py_tp_members, gate_members},
    {Py_tp_doc, "Lets one user in at a time, and never waits."},
    {0, NULL},
};

PyType_Spec UserGate_spec = {
    .name = "tensorpool._hot.UserGate",
    .basicsize = sizeof(UserGate),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = gate_slots,
};

static PyObject *version_name, *connection_name, *size_name;

int guard_set(Guard *guard, PyObject *lease, PyObject *version, PyObject *keeper,
              PyObject *connection, PyObject *gate, PyObject *mappings)
{
    guard_clear(guard);
    if (!PyObject_TypeCheck(gate, UserGate_type) || !PyTuple_Check(mappings)) {
        PyErr_SetString(PyExc_TypeError, "a UserGate and a tuple of mappings are needed");
        return -1;
    }
    if (version_name == NULL) {
        version_name = PyUnicode_InternFromString("version");
        connection_name = PyUnicode_InternFromString("connection");
        size_name = PyUnicode_InternFromString("size");
        if (version_name == NULL || connection_name == NULL || size_name == NULL) {
            return -1;
        }
    }
    guard->version = PyLong_AsLongLong(version);
    guard->connection = PyLong_AsLongLong(connection);
    if (PyErr_Occurred()) {
        return -1;
    }
    guard->lease = Py_NewRef(lease);
    guard->keeper = Py_NewRef(keeper);
    guard->gate = (UserGate *)Py_NewRef(gate);
    guard->mappings = Py_NewRef(mappings);
    return 0;
}

void guard_clear(Guard *guard)
{
    Py_CLEAR(guard->lease);
    Py_CLEAR(guard->keeper);
    Py_CLEAR(guard->gate);
    Py_CLEAR(guard->mappings);
}

int guard_visit(Guard *guard, visitproc visit, void *arg)
{
    Py_VISIT(guard->lease);
    Py_VISIT(guard->keeper);
    Py_VISIT((PyObject *)guard->gate);
    Py_VISIT(guard->mappings);
    return 0;
}

static int is_still(PyObject *owner, PyObject *name, long long expected)
{
    PyObject *value = PyObject_GetAttr(owner, name);
    if (value == NULL) {
        PyErr_Clear();
        return 0;
    }
    long long present = PyLong_AsLongLong(value);
    Py_DECREF(value);
    if (present == -1 && PyErr_Occurred()) {
        PyErr_Clear();
        return 0;
    }
    return present == expected;
}

/* Whether lease and connection are still those that it was set for; no error is left behind. */
int guard_holds(const Guard *guard)
{
    return guard->lease != NULL && is_still(guard->lease, version_name, guard->version) &&
           is_still(guard->keeper, connection_name, guard->connection);
}

/* Whether every region's file is as long as its mapping: to touch what was cut is a SIGBUS. */
static int are_whole(PyObject *mappings)
{
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(mappings); i++) {
        PyObject *mapping = PyTuple_GET_ITEM(mappings, i);
        PyObject *size = PyObject_CallMethodNoArgs(mapping, size_name);
        Py_ssize_t mapped = PyObject_Size(mapping);
        Py_ssize_t present = size == NULL ? -1 : PyLong_AsSsize_t(size);
        Py_XDECREF(size);
        if (present < mapped || mapped < 0) {
            PyErr_Clear();
            return 0;
        }
    }
    return 1;
}

/* Whether they are, as far as was seen `look_ns` ago at most. */
int still_whole(Wholeness *wholeness, PyObject *mappings, uint64_t look_ns)
{
    uint64_t now_ns = monotonic_ns();
    if (now_ns - wholeness->seen_ns >= look_ns) {
        Py_INCREF(mappings); /* to ask lets others run, who may disarm */
        wholeness->seen_ns = are_whole(mappings) ? now_ns : 0;
        Py_DECREF(mappings);
    }
    return wholeness->seen_ns != 0;
}
