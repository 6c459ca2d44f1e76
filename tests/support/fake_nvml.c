/* A stand-in for the driver's libnvidia-ml.so.1: enough of NVML for the telemetry, with the struct layouts of
 * nvml.h written out here, apart from those of nvidia-ml-py. FAKE_NVML names the scenario, read at each
 * nvmlInit: normal (before Hopper), hopper, mig, no_permission, lost (the device goes after some calls).
 */
#include <stdlib.h>
#include <string.h>

typedef int Return;
enum {
  OK = 0, INVALID = 2, NOT_SUPPORTED = 3, NO_PERMISSION = 4, NOT_FOUND = 6, TOO_SMALL = 7, LOST = 15
};
typedef struct Device *Handle;
typedef struct { unsigned gpu, memory; } Utilization;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } Memory2;
typedef struct {
  unsigned pid; unsigned long long used; unsigned gpu_instance, compute_instance;
} Process;
typedef struct { unsigned long long reference, violation; } Violation;
typedef struct { int reads; } *Sample;
typedef struct {
  unsigned id; Return status; double value;
  struct { char *short_name, *long_name, *unit; } info;
} Metric;
typedef struct { unsigned version, count; Sample first, second; Metric metrics[1]; } Metrics;
typedef struct { unsigned version, supported; } Support;

static char scenario[32];
static int calls;
static int samples_alive;
static char card, slice;
static unsigned long long energy_mj = 1000000;

static int is(const char *name) { return strcmp(scenario, name) == 0; }

static Return answer(void) {
  if (is("no_permission")) return NO_PERMISSION;
  return is("lost") && ++calls > 40 ? LOST : OK;
}
#define ASK { Return status = answer(); if (status != OK) return status; }
#define WHOLE_CARD if (device == (Handle)&slice) return NOT_SUPPORTED;

Return nvmlInitWithFlags(unsigned flags) {
  (void)flags;
  const char *name = getenv("FAKE_NVML");
  strncpy(scenario, name ? name : "normal", sizeof scenario - 1);
  calls = 0;
  return OK;
}
Return nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(Return status) {
  switch (status) {
    case NOT_SUPPORTED: return "Not Supported";
    case NO_PERMISSION: return "Insufficient Permissions";
    case NOT_FOUND: return "Not Found";
    case LOST: return "GPU is lost";
    default: return "Unknown Error";
  }
}
Return nvmlDeviceGetHandleByUUID(const char *uuid, Handle *device) {
  if (strcmp(uuid, "GPU-11111111-2222-3333-4444-555555555555") == 0 && !is("mig")) {
    *device = (Handle)&card;
    return OK;
  }
  if (strcmp(uuid, "MIG-aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee") == 0 && is("mig")) {
    *device = (Handle)&slice;
    return OK;
  }
  return NOT_FOUND;
}
Return nvmlDeviceGetName(Handle device, char *name, unsigned length) {
  if (length < 32) return TOO_SMALL;
  strcpy(name, device == (Handle)&slice ? "Fake H100 MIG 1g.10gb" : "Fake GPU");
  return OK;
}
Return nvmlDeviceIsMigDeviceHandle(Handle device, unsigned *is_mig) {
  *is_mig = device == (Handle)&slice;
  return OK;
}
Return nvmlDeviceGetDeviceHandleFromMigDeviceHandle(Handle device, Handle *parent) {
  (void)device;
  *parent = (Handle)&card;
  return OK;
}
Return nvmlDeviceGetGpuInstanceId(Handle device, unsigned *id) {
  (void)device;
  *id = 7;
  return OK;
}
Return nvmlDeviceGetUtilizationRates(Handle device, Utilization *rates) {
  WHOLE_CARD ASK
  rates->gpu = 87;
  rates->memory = 41;
  return OK;
}
Return nvmlDeviceGetMemoryInfo_v2(Handle device, Memory2 *memory) {
  (void)device;
  ASK
  if (memory->version != (sizeof(Memory2) | 2u << 24)) return INVALID;
  memory->total = 80ull << 30;
  memory->reserved = 1ull << 30;
  memory->used = 6ull << 30;
  memory->free = 73ull << 30;
  return OK;
}
Return nvmlDeviceGetComputeRunningProcesses_v3(Handle device, unsigned *count, Process *processes) {
  (void)device;
  ASK
  const unsigned room = *count;
  *count = 2;
  if (room < 2) return TOO_SMALL;
  const Process found[2] = {{41, 3ull << 30, 0xffffffff, 0xffffffff},
                            {42, 5ull << 30, 0xffffffff, 0xffffffff}};
  memcpy(processes, found, sizeof found);
  return OK;
}
Return nvmlDeviceGetClockInfo(Handle device, int type, unsigned *mhz) {
  (void)device;
  ASK
  *mhz = type == 1 ? 1755 : 9;
  return OK;
}
Return nvmlDeviceGetCurrentClocksEventReasons(Handle device, unsigned long long *reasons) {
  (void)device;
  ASK
  *reasons = 0x4 | 0x2; /* power cap; application clocks, which is no throttling */
  return OK;
}
Return nvmlDeviceGetViolationStatus(Handle device, int policy, Violation *violation) {
  WHOLE_CARD ASK
  violation->reference = 1;
  violation->violation = policy == 0 ? 2500000000ull : 0;
  return OK;
}
Return nvmlDeviceGetPowerUsage(Handle device, unsigned *milliwatts) {
  WHOLE_CARD ASK
  *milliwatts = 412500;
  return OK;
}
Return nvmlDeviceGetTotalEnergyConsumption(Handle device, unsigned long long *millijoules) {
  WHOLE_CARD ASK
  *millijoules = energy_mj += 2000;
  return OK;
}
Return nvmlDeviceGetTemperature(Handle device, int sensor, unsigned *celsius) {
  (void)device; (void)sensor;
  ASK
  *celsius = 61;
  return OK;
}
Return nvmlDeviceGetPcieThroughput(Handle device, int counter, unsigned *kilobytes) {
  WHOLE_CARD ASK
  *kilobytes = counter == 0 ? 125000 : 2500000;
  return OK;
}
Return nvmlGpmQueryDeviceSupport(Handle device, Support *support) {
  (void)device;
  ASK
  support->supported = is("hopper") || is("mig");
  return OK;
}
Return nvmlGpmSampleAlloc(Sample *sample) {
  *sample = calloc(1, sizeof **sample);
  samples_alive += 1;
  return OK;
}
Return nvmlGpmSampleFree(Sample sample) {
  free(sample);
  samples_alive -= 1;
  return OK;
}
static int reads;
Return nvmlGpmSampleGet(Handle device, Sample sample) {
  WHOLE_CARD ASK
  if (is("mig")) return NOT_SUPPORTED; /* of a card in slices, each slice is asked for */
  sample->reads = ++reads;
  return OK;
}
Return nvmlGpmMigSampleGet(Handle device, unsigned instance, Sample sample) {
  ASK
  if (device != (Handle)&card || instance != 7) return INVALID;
  sample->reads = ++reads;
  return OK;
}
Return nvmlGpmMetricsGet(Metrics *query) {
  ASK
  if (query->version != 1 || query->second->reads != query->first->reads + 1) return INVALID;
  for (unsigned i = 0; i < query->count; ++i) {
    Metric *metric = &query->metrics[i];
    metric->status = OK;
    if (metric->id == 2) metric->value = 71.5;
    else if (metric->id == 3) metric->value = 33.25;
    else if (metric->id == 5) metric->value = 48.0;
    else metric->status = NOT_SUPPORTED;
  }
  return OK;
}
int fake_samples_alive(void) { return samples_alive; }
