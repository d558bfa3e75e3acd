/* ClaimState: what a claimed frame is made of. */
#include "hot.h"

static int claim_traverse(PyObject *object, visitproc visit, void *arg)
{
    ClaimState *self = (ClaimState *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->producer);
    Py_VISIT(self->plan);
    Py_VISIT(self->report);
    Py_VISIT(self->array);
    return 0;
}

static int claim_clear(PyObject *object)
{
    ClaimState *self = (ClaimState *)object;
    Py_CLEAR(self->producer);
    Py_CLEAR(self->plan);
    Py_CLEAR(self->report);
    Py_CLEAR(self->array);
    return 0;
}

static void claim_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    claim_clear(object);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyMemberDef claim_members[] = {
    {"_producer", Py_T_OBJECT_EX, offsetof(ClaimState, producer), 0, NULL},
    {"_plan", Py_T_OBJECT_EX, offsetof(ClaimState, plan), 0, NULL},
    {"_report", Py_T_OBJECT_EX, offsetof(ClaimState, report), 0, NULL},
    {"array", Py_T_OBJECT_EX, offsetof(ClaimState, array), 0, NULL},
    {"seq", Py_T_LONGLONG, offsetof(ClaimState, seq), 0, NULL},
    {"_timestamp_ns", Py_T_ULONGLONG, offsetof(ClaimState, timestamp_ns), 0, NULL},
    {"_meta_version", Py_T_ULONGLONG, offsetof(ClaimState, meta_version), 0, NULL},
    {"_trace_id", Py_T_ULONGLONG, offsetof(ClaimState, trace_id), 0, NULL},
    {"is_open", Py_T_BOOL, offsetof(ClaimState, is_open), 0, NULL},
    {"is_abandoned", Py_T_BOOL, offsetof(ClaimState, is_abandoned), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot claim_slots[] = {
    {Py_tp_dealloc, claim_dealloc},
    {Py_tp_traverse, claim_traverse},
    {Py_tp_clear, claim_clear},
    {Py_tp_members, claim_members},
    {Py_tp_doc, "A claimed frame's state."},
    {0, NULL},
};

PyType_Spec ClaimState_spec = {
    .name = "tensorpool._hot.ClaimState",
    .basicsize = sizeof(ClaimState),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = claim_slots,
};
