/* A fake of NVIDIA's management library, for machines without a card: it tells what a text says.
 *
 * FAKE_NVML names a file, read anew at each start of the library: lines "key value", where a line
 * "card UUID" or "slice UUID" begins a card, or a slice of the card before. Without the variable
 * there is no driver. What a card's lines do not mention, this kind of card does not have. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, UNINITIALIZED = 1, INVALID = 2, UNSUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7, NO_DRIVER = 9 };
enum { DEVICES = 16, TENANTS = 8 };

typedef struct {
    char uuid[160], name[160];
    unsigned long long total, used;
    long busy, power, heat, ecc, retired, remap_pending, remap_failed;
    int parent, mig, lost, tenants;
    unsigned pids[TENANTS];
    unsigned long long held[TENANTS];
} device;

typedef struct { unsigned pid; unsigned long long used; unsigned gpu, compute; } process;
typedef struct { unsigned long long total, free, used; } memory;
typedef struct { unsigned gpu, memory; } rates;

static device all[DEVICES];
static int count, started;

static int load(void) {
    const char *path = getenv("FAKE_NVML");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[256], key[64], value[160];
    int card = -1;
    if (!file) return NO_DRIVER;
    count = 0;
    while (fgets(line, sizeof line, file)) {
        if (sscanf(line, "%63s %159[^\n]", key, value) != 2) continue;
        if ((!strcmp(key, "card") || !strcmp(key, "slice")) && count < DEVICES) {
            device *made = &all[count];
            memset(made, 0, sizeof *made);
            made->busy = made->power = made->heat = made->ecc = made->retired = -1;
            made->remap_pending = made->remap_failed = -1;
            made->parent = !strcmp(key, "slice") ? card : -1;
            if (made->parent >= 0) all[card].mig = 1; else card = count;
            strncpy(made->uuid, value, sizeof made->uuid - 1);
            count++;
            continue;
        }
        if (!count) continue;
        device *one = &all[count - 1];
        long number = atol(value);
        if (!strcmp(key, "name")) strncpy(one->name, value, sizeof one->name - 1);
        else if (!strcmp(key, "total_mib")) one->total = (unsigned long long)number << 20;
        else if (!strcmp(key, "used_mib")) one->used = (unsigned long long)number << 20;
        else if (!strcmp(key, "busy")) one->busy = number;
        else if (!strcmp(key, "power_mw")) one->power = number;
        else if (!strcmp(key, "heat")) one->heat = number;
        else if (!strcmp(key, "ecc")) one->ecc = number;
        else if (!strcmp(key, "retired")) one->retired = number;
        else if (!strcmp(key, "remap_pending")) one->remap_pending = number;
        else if (!strcmp(key, "remap_failed")) one->remap_failed = number;
        else if (!strcmp(key, "lost")) one->lost = 1;
        else if (!strcmp(key, "tenant") && one->tenants < TENANTS) {
            unsigned long long mib = 0;
            sscanf(value, "%u %llu", &one->pids[one->tenants], &mib);
            one->held[one->tenants++] = mib << 20;
        }
    }
    fclose(file);
    return OK;
}

#define CHECK(d) do { if (!started) return UNINITIALIZED; if (!(d)) return INVALID; if (((device *)(d))->lost) return 15; } while (0)
#define TELL(d, field, out) do { CHECK(d); if ((d)->field < 0) return UNSUPPORTED; *(out) = (d)->field; return OK; } while (0)

int nvmlInitWithFlags(unsigned flags) { (void)flags; int result = load(); if (result == OK) started++; return result; }
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { if (!started) return UNINITIALIZED; started--; return OK; }
const char *nvmlErrorString(int code) { return code == 15 ? "GPU is lost" : code == NOT_FOUND ? "Not Found" : "fake error"; }

static device *whole(unsigned index) {
    for (int i = 0; i < count; i++)
        if (all[i].parent < 0 && !index--) return &all[i];
    return NULL;
}

int nvmlDeviceGetCount_v2(unsigned *out) {
    if (!started) return UNINITIALIZED;
    for (*out = 0; whole(*out); (*out)++);
    return OK;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, device **out) {
    if (!started) return UNINITIALIZED;
    *out = whole(index);
    return *out ? ((*out)->lost ? 15 : OK) : INVALID;
}
int nvmlDeviceGetHandleByUUID(const char *uuid, device **out) {
    if (!started) return UNINITIALIZED;
    for (int i = 0; i < count; i++)
        if (!strcmp(all[i].uuid, uuid)) { *out = &all[i]; return all[i].lost ? 15 : OK; }
    return NOT_FOUND;
}
int nvmlDeviceGetName(device *d, char *out, unsigned size) { CHECK(d); snprintf(out, size, "%s", d->name); return OK; }
int nvmlDeviceGetUUID(device *d, char *out, unsigned size) { CHECK(d); snprintf(out, size, "%s", d->uuid); return OK; }
int nvmlDeviceGetMemoryInfo(device *d, memory *out) {
    CHECK(d);
    out->total = d->total; out->used = d->used; out->free = d->total - d->used;
    return OK;
}
int nvmlDeviceGetUtilizationRates(device *d, rates *out) { out->memory = 0; TELL(d, busy, &out->gpu); }
int nvmlDeviceGetPowerUsage(device *d, unsigned *out) { TELL(d, power, out); }
int nvmlDeviceGetTemperature(device *d, int sensor, unsigned *out) { (void)sensor; TELL(d, heat, out); }
int nvmlDeviceGetTotalEccErrors(device *d, int kind, int counter, unsigned long long *out) { (void)kind; (void)counter; TELL(d, ecc, out); }
int nvmlDeviceGetRetiredPagesPendingStatus(device *d, int *out) { TELL(d, retired, out); }
int nvmlDeviceGetRemappedRows(device *d, unsigned *right, unsigned *wrong, unsigned *pending, unsigned *failed) {
    CHECK(d);
    if (d->remap_pending < 0) return UNSUPPORTED;
    *right = *wrong = 0; *pending = d->remap_pending; *failed = d->remap_failed > 0;
    return OK;
}
int nvmlDeviceGetMigMode(device *d, unsigned *now, unsigned *next) {
    CHECK(d);
    if (d->parent >= 0) return INVALID;
    *now = *next = d->mig;
    return OK;
}
int nvmlDeviceGetMaxMigDeviceCount(device *d, unsigned *out) { CHECK(d); *out = 7; return OK; }
int nvmlDeviceGetMigDeviceHandleByIndex(device *d, unsigned index, device **out) {
    CHECK(d);
    for (int i = 0; i < count; i++)
        if (all[i].parent == (int)(d - all) && !index--) { *out = &all[i]; return OK; }
    return NOT_FOUND;
}
int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(device *d, device **out) {
    CHECK(d);
    if (d->parent < 0) return INVALID;
    *out = &all[d->parent];
    return OK;
}
int nvmlDeviceGetComputeRunningProcesses_v3(device *d, unsigned *size, process *out) {
    CHECK(d);
    unsigned room = *size;
    *size = d->tenants;
    if (!d->tenants) return OK;
    if (!out || room < *size) return TOO_SMALL;
    for (unsigned i = 0; i < *size; i++) { out[i].pid = d->pids[i]; out[i].used = d->held[i]; out[i].gpu = out[i].compute = ~0u; }
    return OK;
}
int nvmlDeviceGetGraphicsRunningProcesses_v3(device *d, unsigned *size, process *out) { CHECK(d); (void)out; *size = 0; return OK; }
