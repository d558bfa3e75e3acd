/* ProducerState: a producer's place in its stream, and a frame published in one call. */
#include "hot.h"

typedef struct {
    PyObject_HEAD
    Guard guard;
    PyObject *writer;
    PyObject *publication;
    PyObject *audience;
    PyObject *claims; /* a dict */
    long long seq, described, published;
    Wholeness wholeness;
} ProducerState;

static PyObject *raw_offer_name, *side_streams_name, *policy_name, *tell_name;

static int prepare_names(void)
{
    if (raw_offer_name == NULL) {
        raw_offer_name = PyUnicode_InternFromString("raw_offer");
        side_streams_name = PyUnicode_InternFromString("side_streams");
        policy_name = PyUnicode_InternFromString("policy");
        tell_name = PyUnicode_InternFromString("_tell");
    }
    return raw_offer_name == NULL || side_streams_name == NULL || policy_name == NULL ||
                   tell_name == NULL
               ? -1
               : 0;
}

static void disarm(ProducerState *self)
{
    guard_clear(&self->guard);
    Py_CLEAR(self->writer);
    Py_CLEAR(self->publication);
    Py_CLEAR(self->audience);
    Py_CLEAR(self->claims);
}

/* arm(lease, version, keeper, connection, gate, mappings, writer, publication, audience, claims) */
static PyObject *state_arm(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    ProducerState *self = (ProducerState *)object;
    if (count != 10 || !PyObject_TypeCheck(args[6], SlotWriter_type) || !PyDict_Check(args[9])) {
        PyErr_SetString(PyExc_TypeError, "_arm(lease, version, keeper, connection, gate, mappings, "
                                         "writer, publication, audience, claims)");
        return NULL;
    }
    disarm(self);
    if (prepare_names() < 0 || guard_set(&self->guard, args[0], args[1], args[2], args[3], args[4],
                                         args[5]) < 0) {
        return NULL;
    }
    self->writer = Py_NewRef(args[6]);
    self->publication = Py_NewRef(args[7]);
    self->audience = Py_NewRef(args[8]);
    self->claims = Py_NewRef(args[9]);
    self->wholeness.seen_ns = 0;
    Py_RETURN_NONE;
}

static PyObject *state_disarm(PyObject *object, PyObject *nothing)
{
    (void)nothing;
    disarm((ProducerState *)object);
    Py_RETURN_NONE;
}

/* Whether nothing stands in the way: no change, no open claim, no region that was cut. */
static int is_clear(ProducerState *self)
{
    /* In this order: to ask for the files may let others run. */
    return still_whole(&self->wholeness, self->guard.mappings, FRAME_LOOK_NS) &&
           guard_holds(&self->guard) && PyDict_GET_SIZE(self->claims) == 0;
}

/* How to tell everybody; None while some consumers have streams of their own. */
static PyObject *direct_offer(ProducerState *self)
{
    PyObject *sides = PyObject_GetAttr(self->audience, side_streams_name);
    if (sides == NULL) {
        return NULL;
    }
    int is_direct = PyTuple_Check(sides) && PyTuple_GET_SIZE(sides) == 0;
    Py_DECREF(sides);
    return is_direct ? PyObject_GetAttr(self->publication, raw_offer_name) : Py_NewRef(Py_None);
}

/* The frame's number, once it is committed: what could not be told is told by Python. */
static PyObject *committed(ProducerState *self, long long seq, int is_told, PyObject *meta_version,
                           PyObject *trace_id)
{
    self->published++;
    self->described = seq;
    PyObject *number = PyLong_FromLongLong(seq);
    if (!is_told && number != NULL) {
        PyObject *call[] = {(PyObject *)self, number, meta_version, trace_id};
        PyObject *done = PyObject_VectorcallMethod(tell_name, call, 4, NULL);
        if (done == NULL) {
            Py_CLEAR(number);
        }
        Py_XDECREF(done);
    }
    return number;
}

/* A field that the wire cannot carry: frame_fields says so, with its name. */
static PyObject *refused_in_python(void)
{
    PyErr_Clear();
    Py_RETURN_NONE;
}

/* For who is inside the gate. */
static PyObject *publish(ProducerState *self, PyObject *const *args)
{
    uint64_t meta_version, trace_id;
    if (u64_of(args[2], &meta_version) < 0 || u64_of(args[3], &trace_id) < 0) {
        return refused_in_python();
    }
    if (!is_clear(self)) {
        Py_RETURN_NONE;
    }
    PyObject *offer = direct_offer(self);
    if (offer == NULL) {
        return NULL;
    }
    long long seq = self->seq;
    PyObject *writer = Py_NewRef(self->writer); /* others run meanwhile, who may disarm it */
    Published result =
        writer_send(writer, args[0], (uint64_t)seq, args[1], meta_version, trace_id, offer);
    Py_DECREF(writer);
    Py_DECREF(offer);
    if (result == FAILED) {
        return NULL;
    }
    if (result == NOT_THIS_WAY) {
        Py_RETURN_NONE;
    }
    self->seq = seq + 1;
    return committed(self, seq, result == TOLD, args[2], args[3]);
}

/* Whether consumers want to hear how far frames are that are being written. */
static int reports_progress(ProducerState *self)
{
    PyObject *policy = PyObject_GetAttr(self->audience, policy_name);
    int is_wanted = policy != Py_None; /* an error too: Python looks */
    PyErr_Clear();
    Py_XDECREF(policy);
    return is_wanted;
}

/* For who is inside the gate. */
static PyObject *claim(ProducerState *self, PyObject *const *args)
{
    PyTypeObject *type = (PyTypeObject *)args[0];
    PyObject *plan = args[1];
    if (!PyTuple_Check(plan) || PyTuple_GET_SIZE(plan) != PLAN_FIELDS) {
        PyErr_SetString(PyExc_TypeError, "a SlotPlan is needed");
        return NULL;
    }
    uint64_t timestamp_ns = 0, meta_version, trace_id;
    if ((args[5] != Py_None && u64_of(args[5], &timestamp_ns) < 0) ||
        u64_of(args[6], &meta_version) < 0 || u64_of(args[7], &trace_id) < 0 ||
        timestamp_ns == UINT64_MAX || meta_version >= UINT32_MAX) {
        return refused_in_python();
    }
    if (args[5] == Py_None) {
        timestamp_ns = monotonic_ns();
    }
    long index = PyLong_AsLong(PyTuple_GET_ITEM(plan, PLAN_POOL));
    if (index == -1 && PyErr_Occurred()) {
        return NULL;
    }
    if (!is_clear(self) || PyTuple_GET_ITEM(plan, PLAN_WRITER) != self->writer ||
        reports_progress(self)) {
        Py_RETURN_NONE;
    }
    ClaimState *made = (ClaimState *)type->tp_alloc(type, 0);
    if (made == NULL) {
        return NULL;
    }
    made->array = writer_slot(self->writer, (uint64_t)self->seq, (int)index, args[2], args[3],
                              args[4] == Py_True);
    made->producer = Py_NewRef((PyObject *)self);
    made->plan = Py_NewRef(plan);
    made->report = Py_NewRef(Py_None);
    made->seq = self->seq;
    made->timestamp_ns = timestamp_ns;
    made->meta_version = meta_version;
    made->trace_id = trace_id;
    made->is_open = 1;
    PyObject *number = PyLong_FromLongLong(self->seq);
    if (made->array == NULL || number == NULL ||
        PyDict_SetItem(self->claims, number, (PyObject *)made) < 0) {
        Py_XDECREF(number);
        Py_DECREF(made);
        return NULL;
    }
    Py_DECREF(number);
    writer_start(self->writer, (uint64_t)self->seq);
    self->seq++;
    return (PyObject *)made;
}

/* Whether it is the only one, of this epoch, and nothing has changed since. */
static int is_only_claim(ProducerState *self, ClaimState *claim)
{
    if (claim->array == NULL || claim->plan == NULL || !PyTuple_Check(claim->plan) ||
        PyTuple_GET_SIZE(claim->plan) != PLAN_FIELDS) {
        return 0; /* whoever deletes or replaces them gets Python's error */
    }
    if (!guard_holds(&self->guard) || PyDict_GET_SIZE(self->claims) != 1 || !claim->is_open ||
        PyTuple_GET_ITEM(claim->plan, PLAN_WRITER) != self->writer) {
        return 0;
    }
    PyObject *key, *value;
    Py_ssize_t at = 0;
    return PyDict_Next(self->claims, &at, &key, &value) && value == (PyObject *)claim;
}

/* For who is inside the gate. */
static PyObject *finish(ProducerState *self, ClaimState *claim)
{
    if (!is_only_claim(self, claim) || claim->meta_version >= UINT32_MAX) {
        Py_RETURN_NONE;
    }
    PyObject *header = PyTuple_GET_ITEM(claim->plan, PLAN_HEADER);
    long index = PyLong_AsLong(PyTuple_GET_ITEM(claim->plan, PLAN_POOL));
    unsigned long long nbytes =
        PyLong_AsUnsignedLongLong(PyTuple_GET_ITEM(claim->plan, PLAN_NBYTES));
    PyObject *meta_version = PyLong_FromUnsignedLongLong(claim->meta_version);
    PyObject *trace_id = PyLong_FromUnsignedLongLong(claim->trace_id);
    PyObject *offer = direct_offer(self);
    PyObject *number = NULL;
    if (!PyErr_Occurred() &&
        writer_header(self->writer, (uint64_t)claim->seq, (int)index, PyBytes_AsString(header),
                      PyBytes_Size(header), nbytes, claim->timestamp_ns,
                      (uint32_t)claim->meta_version, 1) == 0) {
        claim->is_open = 0;
        if (PyArray_Check(claim->array)) {
            PyArray_CLEARFLAGS((PyArrayObject *)claim->array, NPY_ARRAY_WRITEABLE);
        }
        PyDict_Clear(self->claims);
        int is_told = offer != Py_None &&
                      writer_tell(self->writer, offer, (uint64_t)claim->seq,
                                  (uint32_t)claim->meta_version, claim->trace_id);
        number = committed(self, claim->seq, is_told, meta_version, trace_id);
    }
    Py_XDECREF(meta_version);
    Py_XDECREF(trace_id);
    Py_XDECREF(offer);
    return number;
}

/* Whether `self` could be entered; then `leave` has to follow. */
static UserGate *enter(ProducerState *self)
{
    UserGate *gate = self->guard.gate;
    return gate != NULL && gate_enter(gate) ? (UserGate *)Py_NewRef((PyObject *)gate) : NULL;
}

static PyObject *leave(ProducerState *self, UserGate *gate, PyObject *result)
{
    if (result != NULL && result != Py_None && self->guard.mappings != NULL) {
        still_whole(&self->wholeness, self->guard.mappings, IDLE_LOOK_NS);
    }
    gate_leave(gate);
    Py_DECREF(gate);
    return result;
}

/* _publish_at_once(array, timestamp_ns, meta_version, trace_id) */
static PyObject *state_publish_at_once(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    ProducerState *self = (ProducerState *)object;
    if (count != 4) {
        PyErr_SetString(PyExc_TypeError,
                        "_publish_at_once(array, timestamp_ns, meta_version, trace_id)");
        return NULL;
    }
    UserGate *gate = enter(self);
    return gate == NULL ? Py_NewRef(Py_None) : leave(self, gate, publish(self, args));
}

/* _claim_at_once(type, plan, dims, dtype, is_column, timestamp_ns, meta_version, trace_id) */
static PyObject *state_claim_at_once(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    ProducerState *self = (ProducerState *)object;
    if (count != 8 || !PyType_Check(args[0]) ||
        !PyType_IsSubtype((PyTypeObject *)args[0], ClaimState_type) || !PyTuple_Check(args[2]) ||
        !PyArray_DescrCheck(args[3])) {
        PyErr_SetString(PyExc_TypeError, "_claim_at_once(type, plan, dims, dtype, is_column, "
                                         "timestamp_ns, meta_version, trace_id)");
        return NULL;
    }
    UserGate *gate = enter(self);
    return gate == NULL ? Py_NewRef(Py_None) : leave(self, gate, claim(self, args));
}

/* _finish_at_once(claim) */
static PyObject *state_finish_at_once(PyObject *object, PyObject *argument)
{
    ProducerState *self = (ProducerState *)object;
    if (!PyObject_TypeCheck(argument, ClaimState_type)) {
        PyErr_SetString(PyExc_TypeError, "_finish_at_once(claim)");
        return NULL;
    }
    UserGate *gate = enter(self);
    return gate == NULL ? Py_NewRef(Py_None)
                        : leave(self, gate, finish(self, (ClaimState *)argument));
}

static int state_traverse(PyObject *object, visitproc visit, void *arg)
{
    ProducerState *self = (ProducerState *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->writer);
    Py_VISIT(self->publication);
    Py_VISIT(self->audience);
    Py_VISIT(self->claims);
    return guard_visit(&self->guard, visit, arg);
}

static int state_clear(PyObject *object)
{
    disarm((ProducerState *)object);
    return 0;
}

static void state_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    state_clear(object);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyMemberDef state_members[] = {
    {"published", Py_T_LONGLONG, offsetof(ProducerState, published), 0, NULL},
    {"_seq", Py_T_LONGLONG, offsetof(ProducerState, seq), 0, NULL},
    {"_described", Py_T_LONGLONG, offsetof(ProducerState, described), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef state_methods[] = {
    {"_arm", (PyCFunction)(void (*)(void))state_arm, METH_FASTCALL,
     "_arm(lease, version, keeper, connection, gate, mappings, writer, publication, audience, "
     "claims)"},
    {"_disarm", state_disarm, METH_NOARGS, "_disarm()"},
    {"_publish_at_once", (PyCFunction)(void (*)(void))state_publish_at_once, METH_FASTCALL,
     "_publish_at_once(array, timestamp_ns, meta_version, trace_id): the frame's seq; None if "
     "nothing was done and Python has to look."},
    {"_claim_at_once", (PyCFunction)(void (*)(void))state_claim_at_once, METH_FASTCALL,
     "_claim_at_once(type, plan, dims, dtype, is_column, timestamp_ns, meta_version, trace_id): "
     "the claim; None if nothing was done and Python has to look."},
    {"_finish_at_once", state_finish_at_once, METH_O,
     "_finish_at_once(claim): its seq; None if nothing was done and Python has to look."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot state_slots[] = {
    {Py_tp_dealloc, state_dealloc},
    {Py_tp_traverse, state_traverse},
    {Py_tp_clear, state_clear},
    {Py_tp_members, state_members},
    {Py_tp_methods, state_methods},
    {Py_tp_doc, "A producer's place in its stream."},
    {0, NULL},
};

PyType_Spec ProducerState_spec = {
    .name = "tensorpool._hot.ProducerState",
    .basicsize = sizeof(ProducerState),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = state_slots,
};
