/* What the three parts of the simulator share: the parsed spec, the clock, and power and energy of a device. */
#ifndef NVML_SIMULATOR_H
#define NVML_SIMULATOR_H

#include <stdbool.h>
#include <stddef.h>

enum {
    MAX_GPUS = 24,
    MAX_FAULTS = 64,
    MAX_SLICES = 7,
    MAX_STEPS = 32,
    MAX_PROCESSES = 32,
    TEXT = 96,
    TARGET_ALL = -1,
    TARGET_INIT = -2,
};

enum nvml_result {
    NVML_SUCCESS = 0,
    NVML_ERROR_UNINITIALIZED = 1,
    NVML_ERROR_INVALID_ARGUMENT = 2,
    NVML_ERROR_NOT_SUPPORTED = 3,
    NVML_ERROR_NO_PERMISSION = 4,
    NVML_ERROR_NOT_FOUND = 6,
    NVML_ERROR_INSUFFICIENT_SIZE = 7,
    NVML_ERROR_DRIVER_NOT_LOADED = 9,
    NVML_ERROR_TIMEOUT = 10,
    NVML_ERROR_GPU_IS_LOST = 15,
    NVML_ERROR_LIB_RM_VERSION_MISMATCH = 18,
    NVML_ERROR_UNKNOWN = 999,
};

enum curve_shape { CURVE_CONSTANT, CURVE_SQUARE, CURVE_SINE, CURVE_STEPS };

/* Watts over simulated seconds. constant: a. square: a for half a period, then b. sine: a + b sin(2 pi t / period). */
struct curve {
    enum curve_shape shape;
    double a, b, period_s;
    int steps;
    double step_time_s[MAX_STEPS], step_power_w[MAX_STEPS];
};

enum fault_kind {
    FAULT_LOST,
    FAULT_RESET,
    FAULT_STUCK,
    FAULT_OFFSET,
    FAULT_COUNTER_READS,
    FAULT_POWER_READS,
    FAULT_NO_COUNTER,
    FAULT_NO_POWER,
    FAULT_NO_FIELD,
    FAULT_NO_PERMISSION,
    FAULT_LIMIT,
    FAULT_THROTTLE,
    FAULT_SLOW,
    FAULT_ERROR,
};

struct fault {
    int target;
    enum fault_kind kind;
    double start_s, end_s, argument;
};

struct gpu {
    char name[TEXT], uuid[TEXT];
    unsigned minor;
    int capability_major, capability_minor;
    struct curve power;
    double module_power_w, limit_w, memory_gib, counter_start_j;
    int slices;
    int slice_size[MAX_SLICES], compute_size[MAX_SLICES];
};

struct process {
    int gpu;
    unsigned pid;
};

struct spec {
    int gpus, faults, processes;
    struct gpu gpu[MAX_GPUS];
    struct fault fault[MAX_FAULTS];
    struct process process[MAX_PROCESSES];
    double epoch_s, speed, counter_step_s;
    bool module_is_default;
    char log[4096], armed[4096], clock[4096];
};

/* spec.c: fills `spec` from the text (or the file that it names); false and a line on stderr if it cannot. */
bool spec_parse(struct spec *spec, const char *text);

/* world.c */
double world_now_s(const struct spec *spec);
const struct fault *world_fault(const struct spec *spec, int target, enum fault_kind kind);
double world_power_w(const struct spec *spec, int gpu, bool module);
double world_mean_power_w(const struct spec *spec, int gpu, bool module);
double world_energy_j(const struct spec *spec, int gpu, bool module);
unsigned long long world_counter_mj(const struct spec *spec, int gpu, bool module);
unsigned world_power_mw(const struct spec *spec, int gpu, double power_w);
/* Lets so many seconds go by. A clock in a file is set ahead by them. */
void world_sleep(const struct spec *spec, double seconds);
/* Appends "pid function gpu" to the log that the spec names, in one write. */
void world_log(const struct spec *spec, const char *function, int gpu);

#endif
