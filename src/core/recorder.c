/* recorder.c: see recorder.h. */
#include "core/recorder.h"

static const int64_t FIRST_INTERVAL = 1000 * 1000; /* ns */

void
al_recorder_init(al_recorder *recorder)
{
    recorder->interval = FIRST_INTERVAL;
}

void
al_recorder_sample(al_recorder *recorder, al_sample sample)
{
    if (recorder->sample_count == AL_RECORDER_SAMPLES) {
        for (uint32_t i = 0; i < AL_RECORDER_SAMPLES / 2; i++) {
            recorder->samples[i] = recorder->samples[2 * i];
        }
        recorder->sample_count = AL_RECORDER_SAMPLES / 2;
        recorder->interval *= 2;
    }
    recorder->samples[recorder->sample_count++] = sample;
    recorder->next_sample = sample.when + recorder->interval;
}

PyObject *
al_recorder_read(const al_recorder *recorder, uint64_t most)
{
    uint64_t present =
        recorder->count < AL_RECORDER_SLOTS ? recorder->count : AL_RECORDER_SLOTS;
    present = present < most ? present : most;
    PyObject *list = PyList_New(0);
    for (uint64_t i = recorder->count - present; list != NULL && i < recorder->count;
         i++) {
        const al_record *record = &recorder->records[i % AL_RECORDER_SLOTS];
        PyObject *item =
            Py_BuildValue("(LLLI)", (long long)record->began,
                          (long long)(record->ended - record->began),
                          (long long)al_record_delay(record), record->entry);
        if (item == NULL || PyList_Append(list, item) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(item);
    }
    return list;
}

PyObject *
al_recorder_timeline(const al_recorder *recorder)
{
    PyObject *list = PyList_New(0);
    for (uint32_t i = 0; list != NULL && i < recorder->sample_count; i++) {
        const al_sample *sample = &recorder->samples[i];
        PyObject *item =
            Py_BuildValue("(LLLL)", (long long)sample->when, (long long)sample->active,
                          (long long)sample->idle, (long long)sample->gil);
        if (item == NULL || PyList_Append(list, item) < 0) {
            Py_CLEAR(list);
        }
        Py_XDECREF(item);
    }
    return list;
}
