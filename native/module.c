/* tensorpool._hot */
#define HOT_MODULE
#include "hot.h"

static int add_type(PyObject *module, PyType_Spec *spec)
{
    PyObject *type = PyType_FromModuleAndSpec(module, spec, NULL);
    if (type == NULL) {
        return -1;
    }
    int result = PyModule_AddType(module, (PyTypeObject *)type);
    Py_DECREF(type);
    return result;
}

static int execute(PyObject *module)
{
    if (PyArray_ImportNumPyAPI() < 0 || add_type(module, &FrameState_spec) < 0 ||
        add_type(module, &SlotReader_spec) < 0 || add_type(module, &SlotWriter_spec) < 0 ||
        add_type(module, &DescriptorSink_spec) < 0) {
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
