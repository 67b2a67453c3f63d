/* recorder.h: the flight recorder: the last slots that ran, and how busy the loop was.
 *
 * Two rings without pointers.  One has a record of 32 bytes for each of the last 4096
 * slots; what ran is the number of an entry of core/usage.  The meter adds its numbers up
 * from there, many records at once.  The other one is the timeline
 * of the whole run: the meter's times at moments that are a millisecond apart, at first;
 * when it is full every second sample is dropped, and from there on they are taken half as
 * often. */
#ifndef AL_CORE_RECORDER_H
#define AL_CORE_RECORDER_H

#include "base/ring.h"

enum { AL_RECORDER_SLOTS = 4096, AL_RECORDER_SAMPLES = 512 };

typedef struct {
    int64_t began, ended; /* ns */
    int64_t pushed;       /* ns: when it was queued, or AL_NO_STAMP */
    uint32_t entry;       /* its number in core/usage */
    bool self_wake;       /* a task's step that queued the next one */
} al_record;

/* ns in the queue; 0 if that is not known. */
static inline int64_t
al_record_delay(const al_record *record)
{
    return record->began > record->pushed ? record->began - record->pushed : 0;
}

typedef struct {
    int64_t when, active, idle, gil; /* ns */
} al_sample;

typedef struct {
    uint64_t count; /* of slots that were recorded, ever */
    al_record records[AL_RECORDER_SLOTS];
    int64_t next_sample, interval; /* ns */
    uint32_t sample_count;
    al_sample samples[AL_RECORDER_SAMPLES];
} al_recorder;

void al_recorder_init(al_recorder *recorder);

static inline void
al_recorder_add(al_recorder *recorder, al_record record)
{
    recorder->records[recorder->count++ % AL_RECORDER_SLOTS] = record;
}

/* It is time for a sample. */
void al_recorder_sample(al_recorder *recorder, al_sample sample);

/* A list of (began, took, delay, entry) of the last slots, so many at most, oldest
 * first. */
PyObject *al_recorder_read(const al_recorder *recorder, uint64_t most);
/* A list of (when, active, idle, gil), oldest first. */
PyObject *al_recorder_timeline(const al_recorder *recorder);

#endif
