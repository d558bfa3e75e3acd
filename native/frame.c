/* FrameState: what a received frame is made of. */
#include "hot.h"

static void frame_dealloc(PyObject *self)
{
    FrameState *frame = (FrameState *)self;
    PyTypeObject *type = Py_TYPE(self);
    Py_XDECREF(frame->array);
    Py_XDECREF(frame->layout);
    Py_XDECREF(frame->consumer);
    Py_XDECREF(frame->reader);
    type->tp_free(self);
    Py_DECREF(type);
}

#define GET_U64(name)                                                                             \
    static PyObject *frame_##name(PyObject *self, void *closure)                                  \
    {                                                                                             \
        (void)closure;                                                                            \
        return PyLong_FromUnsignedLongLong(((FrameState *)self)->name);                           \
    }

#define GET_OBJECT(name)                                                                          \
    static PyObject *frame_##name(PyObject *self, void *closure)                                  \
    {                                                                                             \
        (void)closure;                                                                            \
        return Py_NewRef(((FrameState *)self)->name);                                             \
    }

GET_OBJECT(array)
GET_OBJECT(layout)
GET_OBJECT(consumer)
GET_U64(seq)
GET_U64(epoch)
GET_U64(timestamp_ns)
GET_U64(trace_id)
GET_U64(meta_version)

static PyObject *frame_published_ns(PyObject *self, void *closure)
{
    (void)closure;
    uint64_t published_ns = ((FrameState *)self)->published_ns;
    if (published_ns == UINT64_MAX) {
        Py_RETURN_NONE;
    }
    return PyLong_FromUnsignedLongLong(published_ns);
}

static PyObject *frame_valid(PyObject *self, void *closure)
{
    (void)closure;
    FrameState *frame = (FrameState *)self;
    return PyBool_FromLong(still_holds(frame->word, frame->commit));
}

static PyGetSetDef frame_attributes[] = {
    {"array", frame_array, NULL, NULL, NULL},
    {"layout", frame_layout, NULL, NULL, NULL},
    {"_consumer", frame_consumer, NULL, NULL, NULL},
    {"seq", frame_seq, NULL, NULL, NULL},
    {"epoch", frame_epoch, NULL, NULL, NULL},
    {"timestamp_ns", frame_timestamp_ns, NULL, NULL, NULL},
    {"published_ns", frame_published_ns, NULL, NULL, NULL},
    {"meta_version", frame_meta_version, NULL, NULL, NULL},
    {"trace_id", frame_trace_id, NULL, NULL, NULL},
    {"valid", frame_valid, NULL,
     "Whether the slot still holds this frame: what was read of it so far is whole.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot frame_slots[] = {
    {Py_tp_dealloc, frame_dealloc},
    {Py_tp_getset, frame_attributes},
    {Py_tp_doc, "A received frame's state; made by `SlotReader` only."},
    {0, NULL},
};

/* No collector: a frame refers to its consumer, and no consumer to its frames. */
PyType_Spec FrameState_spec = {
    .name = "tensorpool._hot.FrameState",
    .basicsize = sizeof(FrameState),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = frame_slots,
};
