/* tensorpool._hot */
#define HOT_MODULE
#include "hot.h"

PyTypeObject *SlotReader_type, *SlotWriter_type, *DescriptorSink_type, *UserGate_type,
    *ClaimState_type;

static int add_type(PyObject *module, PyType_Spec *spec, PyTypeObject **kept)
{
    PyObject *type = PyType_FromModuleAndSpec(module, spec, NULL);
    if (type == NULL) {
        return -1;
    }
    int result = PyModule_AddType(module, (PyTypeObject *)type);
    if (kept != NULL) {
        *kept = (PyTypeObject *)Py_NewRef(type); /* for good: the module is never unloaded */
    }
    Py_DECREF(type);
    return result;
}

static int execute(PyObject *module)
{
    if (PyArray_ImportNumPyAPI() < 0 || add_type(module, &FrameState_spec, NULL) < 0 ||
        add_type(module, &SlotReader_spec, &SlotReader_type) < 0 ||
        add_type(module, &SlotWriter_spec, &SlotWriter_type) < 0 ||
        add_type(module, &DescriptorSink_spec, &DescriptorSink_type) < 0 ||
        add_type(module, &UserGate_spec, &UserGate_type) < 0 ||
        add_type(module, &ClaimState_spec, &ClaimState_type) < 0 ||
        add_type(module, &ConsumerState_spec, NULL) < 0 ||
        add_type(module, &ProducerState_spec, NULL) < 0) {
        return -1;
    }
    return 0;
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, execute},
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED},
    {0, NULL},
};

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "tensorpool._hot",
    .m_doc = "The per-frame path in C; see tensorpool.client.slots for the same in Python.",
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__hot(void) { return PyModuleDef_Init(&definition); }
