/* ConsumerState: a consumer's place in its stream, and the next frame in one call. */
#include "hot.h"

enum { MOST_POLLS = 256 };

typedef struct {
    PyObject_HEAD
    Guard guard;
    PyObject *reader;
    DescriptorSink *sink;
    PyObject *subscription;
    Wholeness wholeness;
    unsigned long long last_epoch;
    long long last_seq;
    long long received, drops_gap, drops_late, drops_invalid;
} ConsumerState;

static PyObject *raw_poll_name, *poll_keywords, *poll_limit;

static int prepare_names(void)
{
    if (raw_poll_name == NULL) {
        raw_poll_name = PyUnicode_InternFromString("raw_poll");
        poll_keywords = Py_BuildValue("(s)", "assemble");
        poll_limit = PyLong_FromLong(BATCH);
    }
    return raw_poll_name == NULL || poll_keywords == NULL || poll_limit == NULL ? -1 : 0;
}

static void disarm(ConsumerState *self)
{
    guard_clear(&self->guard);
    Py_CLEAR(self->reader);
    Py_CLEAR(self->sink);
    Py_CLEAR(self->subscription);
}

/* arm(lease, version, keeper, connection, gate, mappings, reader, sink, subscription) */
static PyObject *state_arm(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    ConsumerState *self = (ConsumerState *)object;
    if (count != 9 || !PyObject_TypeCheck(args[6], SlotReader_type) ||
        !PyObject_TypeCheck(args[7], DescriptorSink_type)) {
        PyErr_SetString(PyExc_TypeError, "_arm(lease, version, keeper, connection, gate, mappings, "
                                         "reader, sink, subscription)");
        return NULL;
    }
    disarm(self);
    if (prepare_names() < 0 || guard_set(&self->guard, args[0], args[1], args[2], args[3], args[4],
                                         args[5]) < 0) {
        return NULL;
    }
    self->wholeness.seen_ns = 0;
    self->reader = Py_NewRef(args[6]);
    self->sink = (DescriptorSink *)Py_NewRef(args[7]);
    self->subscription = Py_NewRef(args[8]);
    Py_RETURN_NONE;
}

static PyObject *state_disarm(PyObject *object, PyObject *nothing)
{
    (void)nothing;
    disarm((ConsumerState *)object);
    Py_RETURN_NONE;
}

/* Parts of the state, held while others may run, who may disarm it. */
typedef struct {
    PyObject *reader;
    DescriptorSink *sink;
    PyObject *subscription;
    PyObject *mappings;
} Held;

/* Poll once; how many descriptors of any stream came, -1 with an error. */
static long poll_once(DescriptorSink *sink, PyObject *poll)
{
    PyObject *args[] = {(PyObject *)sink, poll_limit, Py_False};
    sink->first = 0;
    sink->is_direct = 1;
    PyObject *result = PyObject_Vectorcall(poll, args, 2, poll_keywords);
    sink->is_direct = 0;
    if (result == NULL) {
        return -1;
    }
    long heard = PyLong_AsLong(result);
    Py_DECREF(result);
    return heard;
}

/* Hear until something is of our stream, or nothing more is there, as `DescriptorInbox.fill`; 0 if
 * Python has to look why it fails. */
static int hear(const Held *held)
{
    PyObject *poll = PyObject_GetAttr(held->subscription, raw_poll_name);
    long heard = poll == NULL ? -1 : BATCH;
    for (int polls = 0; polls < MOST_POLLS && heard == BATCH && !held->sink->count; polls++) {
        heard = poll_once(held->sink, poll);
    }
    Py_XDECREF(poll);
    if (heard < 0 && PyErr_ExceptionMatches(PyExc_Exception)) {
        PyErr_Clear(); /* a lost connection; or the same error comes once more, in Python */
    }
    return heard >= 0;
}

/* A frame of the batch was late: those that are surely overwritten as well are passed over. */
static void skip_overtaken(ConsumerState *self, const Held *held, uint64_t seq)
{
    DescriptorSink *sink = held->sink;
    int64_t last = reader_newest_overtaken(held->reader, seq);
    self->drops_late++;
    while (sink->count && sink->batch[sink->first].epoch == self->last_epoch &&
           (int64_t)sink->batch[sink->first].seq <= last) {
        int64_t passed = (int64_t)sink->batch[sink->first].seq;
        sink->first++;
        sink->count--;
        if (passed > self->last_seq) {
            self->drops_gap += passed - self->last_seq - 1;
            self->drops_late++;
            self->last_seq = passed;
        }
    }
}

/* The next whole frame of the batch; None if there is none; False if its next descriptor is for
 * Python; NULL with an error. */
static PyObject *take_of_batch(ConsumerState *self, const Held *held)
{
    DescriptorSink *sink = held->sink;
    while (sink->count) {
        Descriptor told = sink->batch[sink->first];
        int64_t seq = (int64_t)told.seq;
        if (told.epoch != self->last_epoch) {
            Py_RETURN_FALSE;
        }
        sink->first++;
        sink->count--;
        if (seq <= self->last_seq) {
            continue;
        }
        if (self->last_seq >= 0) {
            self->drops_gap += seq - self->last_seq - 1;
        }
        self->last_seq = seq;
        PyObject *frame =
            reader_frame(held->reader, told.seq, told.epoch, told.published_ns, told.trace_id);
        if (frame == Py_None) {
            Py_DECREF(frame);
            skip_overtaken(self, held, told.seq);
        } else if (frame == Py_False) {
            Py_DECREF(frame);
            self->drops_invalid++;
        } else {
            self->received += frame != NULL;
            return frame;
        }
    }
    Py_RETURN_NONE;
}

static PyObject *take_held(ConsumerState *self, const Held *held)
{
    DescriptorSink *sink = held->sink;
    for (;;) {
        PyObject *frame = take_of_batch(self, held);
        if (frame != Py_None) {
            return frame;
        }
        if (!hear(held)) {
            return PyErr_Occurred() ? NULL : Py_NewRef(Py_False);
        }
        if (!sink->count) {
            still_whole(&self->wholeness, held->mappings, IDLE_LOOK_NS);
            return frame;
        }
        if (!still_whole(&self->wholeness, held->mappings, FRAME_LOOK_NS)) {
            self->drops_invalid += sink->count; /* what was cut has no frames */
            sink->count = 0;
        }
    }
}

/* For who is inside the gate: the next frame; None if there is none; False if Python has to look:
 * something changed, or descriptors wait that are not of the mapped epoch. */
static PyObject *take(ConsumerState *self)
{
    if (!guard_holds(&self->guard) || PyObject_Size(self->sink->waiting) != 0) {
        Py_RETURN_FALSE;
    }
    Held held = {Py_NewRef(self->reader), (DescriptorSink *)Py_NewRef((PyObject *)self->sink),
                 Py_NewRef(self->subscription), Py_NewRef(self->guard.mappings)};
    PyObject *frame = take_held(self, &held);
    Py_DECREF(held.reader);
    Py_DECREF(held.sink);
    Py_DECREF(held.subscription);
    Py_DECREF(held.mappings);
    return frame;
}

static PyObject *state_take_at_once(PyObject *object, PyObject *nothing)
{
    (void)nothing;
    ConsumerState *self = (ConsumerState *)object;
    UserGate *gate = self->guard.gate;
    if (gate == NULL || !gate_enter(gate)) {
        Py_RETURN_FALSE;
    }
    Py_INCREF(gate);
    PyObject *frame = take(self);
    gate_leave(gate);
    Py_DECREF(gate);
    return frame;
}

static PyObject *state_take_inside(PyObject *object, PyObject *nothing)
{
    (void)nothing;
    return take((ConsumerState *)object);
}

static int state_traverse(PyObject *object, visitproc visit, void *arg)
{
    ConsumerState *self = (ConsumerState *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->reader);
    Py_VISIT((PyObject *)self->sink);
    Py_VISIT(self->subscription);
    return guard_visit(&self->guard, visit, arg);
}

static int state_clear(PyObject *object)
{
    disarm((ConsumerState *)object);
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

/* ConsumerState[Frame], as its twin in Python: what it is of is for type checkers. */
static PyObject *state_of_frames(PyObject *type, PyObject *frame)
{
    (void)frame;
    return Py_NewRef(type);
}

static PyMemberDef state_members[] = {
    {"received", Py_T_LONGLONG, offsetof(ConsumerState, received), 0, NULL},
    {"drops_gap", Py_T_LONGLONG, offsetof(ConsumerState, drops_gap), 0, NULL},
    {"drops_late", Py_T_LONGLONG, offsetof(ConsumerState, drops_late), 0, NULL},
    {"drops_invalid", Py_T_LONGLONG, offsetof(ConsumerState, drops_invalid), 0, NULL},
    {"_last_seq", Py_T_LONGLONG, offsetof(ConsumerState, last_seq), 0, NULL},
    {"_last_epoch", Py_T_ULONGLONG, offsetof(ConsumerState, last_epoch), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef state_methods[] = {
    {"_arm", (PyCFunction)(void (*)(void))state_arm, METH_FASTCALL,
     "_arm(lease, version, keeper, connection, gate, mappings, reader, sink, subscription)"},
    {"_disarm", state_disarm, METH_NOARGS, "_disarm()"},
    {"_take_at_once", state_take_at_once, METH_NOARGS,
     "The next frame; None if there is none; False if Python has to look."},
    {"__class_getitem__", state_of_frames, METH_O | METH_CLASS, NULL},
    {"_take_inside", state_take_inside, METH_NOARGS, "The same, for who is inside the gate."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot state_slots[] = {
    {Py_tp_dealloc, state_dealloc},
    {Py_tp_traverse, state_traverse},
    {Py_tp_clear, state_clear},
    {Py_tp_members, state_members},
    {Py_tp_methods, state_methods},
    {Py_tp_doc, "A consumer's place in its stream."},
    {0, NULL},
};

PyType_Spec ConsumerState_spec = {
    .name = "tensorpool._hot.ConsumerState",
    .basicsize = sizeof(ConsumerState),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = state_slots,
};
