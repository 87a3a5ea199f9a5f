/* Reads the spec text. Settings are `key=value`, separated by newlines or semicolons; see README.md. */
#define _POSIX_C_SOURCE 200809L
#include "simulator.h"

#include <ctype.h>
#include <errno.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_SPEC_BYTES = 65536 };

static bool complain(const char *key, const char *value)
{
    fprintf(stderr, "nvml simulator: cannot read %s=%s, see tests/nvml_simulator/README.md\n", key, value);
    return false;
}

static bool number(const char *text, double *value)
{
    char *end;
    *value = strtod(text, &end);
    return end != text && *end == '\0' && isfinite(*value);
}

static char *trimmed(char *text)
{
    while (isspace((unsigned char)*text))
        text++;
    char *end = text + strlen(text);
    while (end > text && isspace((unsigned char)end[-1]))
        *--end = '\0';
    return text;
}

static bool curve_parse(struct curve *curve, char *text)
{
    *curve = (struct curve){.shape = CURVE_CONSTANT, .period_s = 1};
    if (number(text, &curve->a))
        return true;
    double *out[] = {&curve->a, &curve->b, &curve->period_s};
    if (strncmp(text, "square:", 7) == 0) {
        curve->shape = CURVE_SQUARE;
    } else if (strncmp(text, "sine:", 5) == 0) {
        curve->shape = CURVE_SINE;
    } else if (strncmp(text, "steps:", 6) == 0) {
        curve->shape = CURVE_STEPS;
        char *save = NULL;
        for (char *item = strtok_r(text + 6, "/", &save); item; item = strtok_r(NULL, "/", &save)) {
            char *at = strchr(item, '@');
            if (!at || curve->steps == MAX_STEPS)
                return false;
            *at = '\0';
            if (!number(item, &curve->step_power_w[curve->steps]) ||
                !number(at + 1, &curve->step_time_s[curve->steps]))
                return false;
            curve->steps++;
        }
        return curve->steps > 0;
    } else {
        return false;
    }
    char *save = NULL;
    strtok_r(text, ":", &save);
    for (int i = 0; i < 3; i++) {
        char *item = strtok_r(NULL, ":", &save);
        if (!item || !number(item, out[i]))
            return false;
    }
    return curve->period_s > 0;
}

static const struct {
    const char *name;
    enum fault_kind kind;
    double argument;
} FAULTS[] = {
    {"lost", FAULT_LOST, 0},
    {"reset", FAULT_RESET, 0},
    {"stuck", FAULT_STUCK, 0},
    {"offset", FAULT_OFFSET, 0},
    {"counter_reads", FAULT_COUNTER_READS, 0},
    {"power_reads", FAULT_POWER_READS, 0},
    {"no_counter", FAULT_NO_COUNTER, 0},
    {"no_power", FAULT_NO_POWER, 0},
    {"no_field", FAULT_NO_FIELD, 0},
    {"no_permission", FAULT_NO_PERMISSION, NVML_ERROR_NO_PERMISSION},
    {"limit", FAULT_LIMIT, 300},
    {"throttle", FAULT_THROTTLE, 64},
    {"slow", FAULT_SLOW, 2},
    {"error", FAULT_ERROR, NVML_ERROR_UNKNOWN},
    {"driver_not_loaded", FAULT_ERROR, NVML_ERROR_DRIVER_NOT_LOADED},
    {"version_mismatch", FAULT_ERROR, NVML_ERROR_LIB_RM_VERSION_MISMATCH},
    {"timeout", FAULT_ERROR, NVML_ERROR_TIMEOUT},
};

/* One fault: target:kind[@start[-end]][=argument], target a GPU index, "*" or "init". */
static bool fault_parse(struct spec *spec, char *text)
{
    if (spec->faults == MAX_FAULTS)
        return false;
    struct fault fault = {.start_s = -1, .end_s = DBL_MAX};
    char *kind = strchr(text, ':');
    if (!kind)
        return false;
    *kind++ = '\0';
    double target;
    if (strcmp(text, "init") == 0)
        fault.target = TARGET_INIT;
    else if (strcmp(text, "*") == 0)
        fault.target = TARGET_ALL;
    else if (number(text, &target) && target >= 0 && target < MAX_GPUS)
        fault.target = (int)target;
    else
        return false;
    char *argument = strchr(kind, '=');
    if (argument)
        *argument++ = '\0';
    char *start = strchr(kind, '@');
    if (start) {
        *start++ = '\0';
        char *end = strchr(start, '-');
        if (end)
            *end++ = '\0';
        if (!number(start, &fault.start_s) || (end && !number(end, &fault.end_s)))
            return false;
    }
    for (size_t i = 0; i < sizeof FAULTS / sizeof *FAULTS; i++) {
        if (strcmp(kind, FAULTS[i].name) != 0)
            continue;
        fault.kind = FAULTS[i].kind;
        fault.argument = FAULTS[i].argument;
        if (argument && !number(argument, &fault.argument))
            return false;
        spec->fault[spec->faults++] = fault;
        return true;
    }
    return false;
}

/* One slice: "3", sevenths of the GPU, or "1c.3g", a compute instance with one of the three sevenths of its GPU instance. */
static bool slice_parse(struct gpu *gpu, const char *item)
{
    int compute = 0, size = 0, length = 0;
    if (sscanf(item, "%dc.%dg%n", &compute, &size, &length) != 2 || item[length] != '\0') {
        double value;
        if (!number(item, &value))
            return false;
        compute = size = (int)value;
    }
    if (size < 1 || size > 7 || compute < 1 || compute > size || gpu->slices == MAX_SLICES)
        return false;
    gpu->compute_size[gpu->slices] = compute;
    gpu->slice_size[gpu->slices++] = size;
    return true;
}

/* One GPU in MIG mode: gpu:slice/slice/... */
static bool mig_parse(struct spec *spec, char *text)
{
    char *slices = strchr(text, ':');
    double value;
    if (!slices)
        return false;
    *slices++ = '\0';
    if (!number(text, &value) || value < 0 || value >= MAX_GPUS)
        return false;
    struct gpu *gpu = &spec->gpu[(int)value];
    char *save = NULL;
    for (char *item = strtok_r(slices, "/", &save); item; item = strtok_r(NULL, "/", &save))
        if (!slice_parse(gpu, item))
            return false;
    return gpu->slices > 0;
}

static bool process_parse(struct spec *spec, char *text)
{
    int gpu;
    unsigned pid;
    if (spec->processes == MAX_PROCESSES || sscanf(text, "%d:%u", &gpu, &pid) != 2)
        return false;
    spec->process[spec->processes++] = (struct process){gpu, pid};
    return true;
}

static bool gpu_field(struct gpu *gpu, const char *key, char *item)
{
    double value;
    if (strcmp(key, "power") == 0)
        return curve_parse(&gpu->power, item);
    if (strcmp(key, "name") == 0)
        return snprintf(gpu->name, TEXT, "%s", item) < TEXT;
    if (strcmp(key, "uuid") == 0)
        return snprintf(gpu->uuid, TEXT, "%s", item) < TEXT;
    if (strcmp(key, "capability") == 0)
        return sscanf(item, "%d.%d", &gpu->capability_major, &gpu->capability_minor) == 2;
    if (!number(item, &value) || value < 0)
        return false;
    if (strcmp(key, "limit") == 0)
        gpu->limit_w = value;
    else if (strcmp(key, "memory") == 0)
        gpu->memory_gib = value;
    else if (strcmp(key, "module_power") == 0)
        gpu->module_power_w = value;
    else if (strcmp(key, "counter_start") == 0)
        gpu->counter_start_j = value;
    else if (strcmp(key, "minor") == 0)
        gpu->minor = (unsigned)value;
    else
        return false;
    return true;
}

/* Applies a list "x,y,z" to GPUs 0, 1, 2; the last item holds for all further ones (names and numbers, not UUIDs). */
static bool each_gpu(struct spec *spec, const char *key, char *value)
{
    char last[1024] = "", item[1024], *save = NULL;
    char *next = strtok_r(value, ",", &save);
    bool unique = strcmp(key, "uuid") == 0 || strcmp(key, "minor") == 0;
    for (int i = 0; i < MAX_GPUS; i++) {
        if (next) {
            snprintf(last, sizeof last, "%s", trimmed(next));
            next = strtok_r(NULL, ",", &save);
        } else if (unique) {
            break;
        }
        snprintf(item, sizeof item, "%s", last);
        if (!gpu_field(&spec->gpu[i], key, item))
            return false;
    }
    return true;
}

static bool each_item(struct spec *spec, char *value, bool (*parse)(struct spec *, char *))
{
    char *save = NULL;
    for (char *item = strtok_r(value, ",", &save); item; item = strtok_r(NULL, ",", &save))
        if (!parse(spec, trimmed(item)))
            return false;
    return true;
}

static bool apply_seed(struct spec *spec, double seed)
{
    for (int i = 0; i < MAX_GPUS; i++)
        snprintf(spec->gpu[i].uuid, TEXT, "GPU-%08x-5133-4d00-8000-%012x", (unsigned)seed, i);
    return true;
}

static bool setting(struct spec *spec, const char *key, char *value)
{
    static const char *const PER_GPU[] = {"power", "name", "uuid", "capability", "limit",
                                          "memory", "module_power", "counter_start", "minor"};
    for (size_t i = 0; i < sizeof PER_GPU / sizeof *PER_GPU; i++)
        if (strcmp(key, PER_GPU[i]) == 0)
            return each_gpu(spec, key, value);
    if (strcmp(key, "fault") == 0)
        return each_item(spec, value, fault_parse);
    if (strcmp(key, "mig") == 0)
        return each_item(spec, value, mig_parse);
    if (strcmp(key, "process") == 0)
        return each_item(spec, value, process_parse);
    if (strcmp(key, "log") == 0)
        return snprintf(spec->log, sizeof spec->log, "%s", value) < (int)sizeof spec->log;
    if (strcmp(key, "armed") == 0)
        return snprintf(spec->armed, sizeof spec->armed, "%s", value) < (int)sizeof spec->armed;
    if (strcmp(key, "clock") == 0)
        return snprintf(spec->clock, sizeof spec->clock, "%s", value) < (int)sizeof spec->clock;
    if (strcmp(key, "default_scope") == 0) {
        spec->module_is_default = strcmp(value, "module") == 0;
        return spec->module_is_default || strcmp(value, "gpu") == 0;
    }
    double amount;
    if (!number(value, &amount) || (amount < 0 && strcmp(key, "epoch") != 0))
        return false;
    if (strcmp(key, "gpus") == 0 && amount <= MAX_GPUS)
        spec->gpus = (int)amount;
    else if (strcmp(key, "seed") == 0)
        return apply_seed(spec, amount);
    else if (strcmp(key, "epoch") == 0)
        spec->epoch_s = amount;
    else if (strcmp(key, "speed") == 0 && amount > 0)
        spec->speed = amount;
    else if (strcmp(key, "counter_step") == 0 && amount > 0)
        spec->counter_step_s = amount;
    else
        return false;
    return true;
}

static bool read_file(const char *path, char *text)
{
    FILE *file = fopen(path, "r");
    if (!file) {
        fprintf(stderr, "nvml simulator: cannot open %s: %s\n", path, strerror(errno));
        return false;
    }
    text[fread(text, 1, MAX_SPEC_BYTES - 1, file)] = '\0';
    fclose(file);
    return true;
}

/* The compute capability that goes with a name, unless `capability` was given. */
static void complete_capability(struct gpu *gpu)
{
    static const struct {
        const char *part;
        int major, minor;
    } NAMES[] = {{"V100", 7, 0},  {"T4", 7, 5},  {"A100", 8, 0}, {"A10", 8, 6},  {"A40", 8, 6},
                 {"4090", 8, 9},  {"L40", 8, 9}, {"L4", 8, 9},   {"B200", 10, 0}};
    if (gpu->capability_major)
        return;
    gpu->capability_major = 9;
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++)
        if (strstr(gpu->name, NAMES[i].part)) {
            gpu->capability_major = NAMES[i].major;
            gpu->capability_minor = NAMES[i].minor;
            return;
        }
}

bool spec_parse(struct spec *spec, const char *text)
{
    static char copy[MAX_SPEC_BYTES];
    memset(spec, 0, sizeof *spec);
    spec->gpus = 1;
    spec->speed = 1;
    spec->counter_step_s = 0.1;
    apply_seed(spec, 0x51);
    for (int i = 0; i < MAX_GPUS; i++) {
        struct gpu *gpu = &spec->gpu[i];
        snprintf(gpu->name, TEXT, "NVIDIA H100 80GB HBM3");
        gpu->minor = (unsigned)i;
        gpu->power.a = 300;
        gpu->limit_w = 700;
        gpu->memory_gib = 80;
        gpu->counter_start_j = 1e6;
    }
    if (*text == '/' || *text == '.') {
        if (!read_file(text, copy))
            return false;
    } else if (snprintf(copy, sizeof copy, "%s", text) >= (int)sizeof copy) {
        return false;
    }
    char *save = NULL;
    for (char *line = strtok_r(copy, ";\n", &save); line; line = strtok_r(NULL, ";\n", &save)) {
        char *key = trimmed(line);
        char *value = strchr(key, '=');
        if (*key == '\0' || *key == '#')
            continue;
        if (!value)
            return complain(key, "");
        *value++ = '\0';
        char shown[TEXT];
        snprintf(shown, sizeof shown, "%s", trimmed(value));
        if (!setting(spec, trimmed(key), trimmed(value)))
            return complain(key, shown);
    }
    for (int i = 0; i < MAX_GPUS; i++)
        complete_capability(&spec->gpu[i]);
    return true;
}
