/* The AMD SMI entry points over the simulated world of tests/nvml_simulator: a package of AMD is a GPU of that world. */
#define _POSIX_C_SOURCE 200809L
#include "amd_smi.h"
#include "simulator.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_PARTS = 8, MAX_TEXT = 65536 };

/* What is said of AMD only: devices of a package, microjoules a count, and how the library tells. */
struct settings {
    unsigned seed;
    int parts[MAX_GPUS];
    double resolution_uj[MAX_GPUS];
    bool average_power, others_are_na, enumeration;
};

struct device {
    int package, part, number;
};

struct socket {
    int devices;
    struct device *first;
};

static struct spec spec;
static struct settings settings;
static struct device devices[MAX_GPUS * MAX_PARTS];
static struct socket sockets[MAX_GPUS * MAX_PARTS];
static int device_count, socket_count, initialised;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* Two dies have PCI devices, and so sockets, of their own; partitions are functions of one. */
static bool has_dies(int package)
{
    return strstr(spec.gpu[package].name, "MI250") != NULL;
}

/* Numbers "x,y,z" for packages 0, 1, 2; the last one holds for all further ones. */
static void each_package(char *value, void (*set)(int, double))
{
    char *save = NULL, *item = strtok_r(value, ",", &save);
    double number = 0;
    for (int i = 0; i < MAX_GPUS; i++) {
        if (item) {
            number = atof(item);
            item = strtok_r(NULL, ",", &save);
        }
        set(i, number);
    }
}

static void set_parts(int package, double number)
{
    settings.parts[package] = number < 1 ? 1 : number > MAX_PARTS ? MAX_PARTS : (int)number;
}

static void set_resolution(int package, double number)
{
    settings.resolution_uj[package] = number;
}

/* Takes the settings that are AMD's own out of the text and leaves the rest to the parser of the world. */
static bool configure(const char *text)
{
    static char copy[MAX_TEXT], rest[MAX_TEXT];
    settings = (struct settings){.seed = 0x51, .enumeration = true};
    for (int i = 0; i < MAX_GPUS; i++) {
        settings.parts[i] = 1;
        settings.resolution_uj[i] = 15.259;
    }
    if (snprintf(copy, sizeof copy, "%s", text) >= (int)sizeof copy)
        return false;
    strcpy(rest, "name=AMD Instinct MI300X;limit=750;memory=192;power=400;counter_step=0.01");
    char *save = NULL;
    for (char *item = strtok_r(copy, ";", &save); item; item = strtok_r(NULL, ";", &save)) {
        char *value = strchr(item, '=');
        size_t length = value ? (size_t)(value - item) : strlen(item);
        if (value && length == 5 && strncmp(item, "parts", 5) == 0)
            each_package(value + 1, set_parts);
        else if (value && length == 10 && strncmp(item, "resolution", 10) == 0)
            each_package(value + 1, set_resolution);
        else if (value && length == 4 && strncmp(item, "seed", 4) == 0)
            settings.seed = (unsigned)atoi(value + 1);
        else if (value && length == 6 && strncmp(item, "others", 6) == 0)
            settings.others_are_na = strcmp(value + 1, "na") == 0;
        else if (value && length == 5 && strncmp(item, "tells", 5) == 0)
            settings.average_power = strcmp(value + 1, "average") == 0;
        else if (value && length == 11 && strncmp(item, "enumeration", 11) == 0)
            settings.enumeration = atoi(value + 1) != 0;
        else if (strlen(rest) + strlen(item) + 2 < sizeof rest)
            strcat(strcat(rest, ";"), item);
    }
    return spec_parse(&spec, rest);
}

static void enumerate(void)
{
    device_count = socket_count = 0;
    for (int package = 0; package < spec.gpus; package++)
        for (int part = 0; part < settings.parts[package]; part++) {
            devices[device_count] = (struct device){package, part, device_count};
            if (part == 0 || has_dies(package))
                sockets[socket_count++] = (struct socket){0, &devices[device_count]};
            sockets[socket_count - 1].devices++;
            device_count++;
        }
}

amdsmi_status_t amdsmi_init(uint64_t flags)
{
    (void)flags;
    pthread_mutex_lock(&lock);
    if (!initialised) {
        const char *text = getenv("AMD_SIM");
        if (!configure(text ? text : "")) {
            pthread_mutex_unlock(&lock);
            return AMDSMI_STATUS_INVAL;
        }
        enumerate();
    }
    world_log(&spec, __func__, -1);
    const struct fault *slow = world_fault(&spec, TARGET_INIT, FAULT_SLOW);
    const struct fault *denied = world_fault(&spec, TARGET_INIT, FAULT_NO_PERMISSION);
    const struct fault *failing = world_fault(&spec, TARGET_INIT, FAULT_ERROR);
    if (slow)
        world_sleep(&spec, slow->argument / spec.speed);
    amdsmi_status_t result = denied    ? AMDSMI_STATUS_NO_PERM
                             : failing ? (amdsmi_status_t)failing->argument
                                       : AMDSMI_STATUS_SUCCESS;
    initialised = result == AMDSMI_STATUS_SUCCESS;
    pthread_mutex_unlock(&lock);
    return result;
}

amdsmi_status_t amdsmi_shut_down(void)
{
    world_log(&spec, __func__, -1);
    amdsmi_status_t result = initialised ? AMDSMI_STATUS_SUCCESS : AMDSMI_STATUS_NOT_INIT;
    initialised = 0;
    return result;
}

amdsmi_status_t amdsmi_get_socket_handles(uint32_t *count, amdsmi_socket_handle *handles)
{
    if (!initialised)
        return AMDSMI_STATUS_NOT_INIT;
    for (int i = 0; handles && i < socket_count && i < (int)*count; i++)
        handles[i] = &sockets[i];
    *count = (uint32_t)socket_count;
    return AMDSMI_STATUS_SUCCESS;
}

amdsmi_status_t amdsmi_get_processor_handles(amdsmi_socket_handle socket, uint32_t *count,
                                             amdsmi_processor_handle *handles)
{
    const struct socket *of = socket;
    if (!initialised)
        return AMDSMI_STATUS_NOT_INIT;
    for (int i = 0; handles && i < of->devices && i < (int)*count; i++)
        handles[i] = of->first + i;
    *count = (uint32_t)of->devices;
    return AMDSMI_STATUS_SUCCESS;
}

/* What every call on a device has in common: it is logged, and the device must be initialised and not lost. */
static amdsmi_status_t enter(const char *function, const struct device *device)
{
    world_log(&spec, function, device->package);
    if (!initialised)
        return AMDSMI_STATUS_NOT_INIT;
    return world_fault(&spec, device->package, FAULT_LOST) ? AMDSMI_STATUS_NOT_FOUND : AMDSMI_STATUS_SUCCESS;
}

#define ENTER(device)                                      \
    do {                                                   \
        amdsmi_status_t entered = enter(__func__, device); \
        if (entered != AMDSMI_STATUS_SUCCESS)              \
            return entered;                                \
    } while (0)

amdsmi_status_t amdsmi_get_gpu_device_bdf(amdsmi_processor_handle handle, uint64_t *bdf)
{
    const struct device *device = handle;
    ENTER(device);
    uint64_t bus = 0x10u + 4u * (unsigned)device->package + (has_dies(device->package) ? (unsigned)device->part : 0u);
    uint64_t function = has_dies(device->package) ? 0u : (unsigned)device->part;
    *bdf = bus << 8 | function;
    return AMDSMI_STATUS_SUCCESS;
}

static uint64_t serial(const struct device *device)
{
    uint64_t own = has_dies(device->package) ? (unsigned)device->part : 0u;
    return (uint64_t)settings.seed << 32 | 0xa3d00000u | (unsigned)device->package << 8 | own;
}

amdsmi_status_t amdsmi_get_gpu_device_uuid(amdsmi_processor_handle handle, uint32_t *length, char *uuid)
{
    const struct device *device = handle;
    ENTER(device);
    int written = snprintf(uuid, *length, "%02xff74a1-0000-1000-80%02x-%012llx", (unsigned)device->part,
                           settings.seed & 0xffu, (unsigned long long)serial(device) & 0xffffffffffffull);
    return written < (int)*length ? AMDSMI_STATUS_SUCCESS : AMDSMI_STATUS_INSUFFICIENT_SIZE;
}

amdsmi_status_t amdsmi_get_gpu_asic_info(amdsmi_processor_handle handle, struct asic_info *info)
{
    const struct device *device = handle;
    ENTER(device);
    memset(info, 0, sizeof *info);
    snprintf(info->market_name, STRING, "%s", spec.gpu[device->package].name);
    snprintf(info->vendor_name, STRING, "Advanced Micro Devices Inc. [AMD/ATI]");
    snprintf(info->asic_serial, STRING, "0x%016llx", (unsigned long long)serial(device));
    info->vendor_id = 0x1002;
    info->device_id = 0x74a1;
    info->target_graphics_version = 0x942;
    info->oam_id = (uint32_t)device->package;
    info->compute_units = 304;
    return AMDSMI_STATUS_SUCCESS;
}

amdsmi_status_t amdsmi_get_gpu_enumeration_info(amdsmi_processor_handle handle, struct enumeration_info *info)
{
    const struct device *device = handle;
    ENTER(device);
    if (!settings.enumeration)
        return AMDSMI_STATUS_NOT_SUPPORTED;
    memset(info, 0, sizeof *info);
    info->drm_render = 128u + (unsigned)device->number;
    info->drm_card = (uint32_t)device->number;
    info->hsa_id = 2u + (unsigned)device->number;
    info->hip_id = (uint32_t)device->number;
    snprintf(info->hip_uuid, STRING, "GPU-%016llx", (unsigned long long)serial(device));
    return AMDSMI_STATUS_SUCCESS;
}

amdsmi_status_t amdsmi_get_gpu_driver_info(amdsmi_processor_handle handle, struct driver_info *info)
{
    const struct device *device = handle;
    ENTER(device);
    memset(info, 0, sizeof *info);
    snprintf(info->driver_name, STRING, "amdgpu");
    snprintf(info->driver_version, STRING, "6.14.simulated");
    return AMDSMI_STATUS_SUCCESS;
}

amdsmi_status_t amdsmi_get_gpu_memory_total(amdsmi_processor_handle handle, uint32_t type, uint64_t *total)
{
    const struct device *device = handle;
    (void)type;
    ENTER(device);
    int parts = settings.parts[device->package];
    *total = (uint64_t)(spec.gpu[device->package].memory_gib * 1073741824.0 / parts);
    return AMDSMI_STATUS_SUCCESS;
}

/* Faults of the calls that read a sensor: slow, denied, or failing with a status. */
static amdsmi_status_t sensor(const struct device *device)
{
    const struct fault *slow = world_fault(&spec, device->package, FAULT_SLOW);
    if (slow)
        world_sleep(&spec, slow->argument / spec.speed);
    const struct fault *failing = world_fault(&spec, device->package, FAULT_ERROR);
    if (world_fault(&spec, device->package, FAULT_NO_PERMISSION))
        return AMDSMI_STATUS_NO_PERM;
    return failing ? (amdsmi_status_t)failing->argument : AMDSMI_STATUS_SUCCESS;
}

amdsmi_status_t amdsmi_get_energy_count(amdsmi_processor_handle handle, uint64_t *accumulator, float *resolution,
                                        uint64_t *timestamp)
{
    const struct device *device = handle;
    int package = device->package;
    ENTER(device);
    amdsmi_status_t result = sensor(device);
    if (result == AMDSMI_STATUS_SUCCESS && world_fault(&spec, package, FAULT_NO_COUNTER))
        result = AMDSMI_STATUS_NOT_SUPPORTED;
    if (result != AMDSMI_STATUS_SUCCESS)
        return result;
    unsigned long long energy_mj = world_counter_mj(&spec, package, false);
    *accumulator = energy_mj == ~0ull ? energy_mj
                                      : (uint64_t)((double)energy_mj * 1e3 / settings.resolution_uj[package]);
    if (device->part > 0)
        *accumulator = settings.others_are_na ? ~0ull : 0;
    *resolution = (float)settings.resolution_uj[package];
    *timestamp = (uint64_t)(world_now_s(&spec) * 1e9);
    return AMDSMI_STATUS_SUCCESS;
}

amdsmi_status_t amdsmi_get_power_info(amdsmi_processor_handle handle, struct power_info *info)
{
    const struct device *device = handle;
    int package = device->package;
    ENTER(device);
    amdsmi_status_t result = sensor(device);
    if (result == AMDSMI_STATUS_SUCCESS && world_fault(&spec, package, FAULT_NO_POWER))
        result = AMDSMI_STATUS_NOT_SUPPORTED;
    if (result != AMDSMI_STATUS_SUCCESS)
        return result;
    unsigned power_mw = world_power_mw(&spec, package, world_power_w(&spec, package, false));
    uint32_t power_w = power_mw == ~0u ? 0xffffffffu : (power_mw + 500u) / 1000u;
    if (device->part > 0)
        power_w = settings.others_are_na ? 0xffffffffu : 0;
    memset(info, 0xff, sizeof *info);
    info->current_socket_power = settings.average_power ? 0xffffu : power_w;
    info->average_socket_power = settings.average_power ? power_w : 0xffffu;
    info->socket_power = power_w == 0xffffffffu ? ~0ull : power_w;
    return AMDSMI_STATUS_SUCCESS;
}

amdsmi_status_t amdsmi_get_power_cap_info(amdsmi_processor_handle handle, uint32_t sensor_id,
                                          struct power_cap_info *info)
{
    const struct device *device = handle;
    (void)sensor_id;
    ENTER(device);
    memset(info, 0, sizeof *info);
    if (device->part > 0)
        return settings.others_are_na ? AMDSMI_STATUS_NOT_SUPPORTED : AMDSMI_STATUS_SUCCESS;
    const struct fault *lowered = world_fault(&spec, device->package, FAULT_LIMIT);
    double limit_w = spec.gpu[device->package].limit_w;
    info->power_cap = (uint64_t)(1e6 * (lowered ? lowered->argument : limit_w));
    info->default_power_cap = info->max_power_cap = (uint64_t)(1e6 * limit_w);
    return AMDSMI_STATUS_SUCCESS;
}

amdsmi_status_t amdsmi_get_clock_info(amdsmi_processor_handle handle, uint32_t type, struct clk_info *info)
{
    const struct device *device = handle;
    (void)type;
    ENTER(device);
    memset(info, 0, sizeof *info);
    info->clk = 1750;
    info->max_clk = 2100;
    return AMDSMI_STATUS_SUCCESS;
}

amdsmi_status_t amdsmi_get_gpu_metrics_info(amdsmi_processor_handle handle, uint8_t *metrics)
{
    const struct device *device = handle;
    ENTER(device);
    memset(metrics, 0xff, METRICS_BYTES);
    /* Both counters stand still, except that the one of the power cap runs while the clocks are throttled. */
    uint64_t still = 5, running = (uint64_t)(world_now_s(&spec) * 1e6) + still;
    const uint64_t *ppt = world_fault(&spec, device->package, FAULT_THROTTLE) ? &running : &still;
    memcpy(metrics + METRICS_PROCHOT, &still, sizeof still);
    memcpy(metrics + METRICS_PPT, ppt, sizeof *ppt);
    return AMDSMI_STATUS_SUCCESS;
}
