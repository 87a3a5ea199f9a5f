/* The NVML entry points that read a sensor: energy, power, limits, memory, clocks. */
#include "driver.h"

#include <stdint.h>
#include <string.h>

/* Faults of the calls that read a sensor: slow, denied, or failing with a code. */
static nvmlReturn_t sensor(nvmlDevice_t device)
{
    if (device->slice >= 0)
        return NVML_ERROR_NOT_SUPPORTED;
    const struct fault *slow = world_fault(&spec, device->gpu, FAULT_SLOW);
    if (slow)
        world_sleep(&spec, slow->argument / spec.speed);
    const struct fault *denied = world_fault(&spec, device->gpu, FAULT_NO_PERMISSION);
    const struct fault *failing = world_fault(&spec, device->gpu, FAULT_ERROR);
    if (denied)
        return NVML_ERROR_NO_PERMISSION;
    return failing ? (nvmlReturn_t)failing->argument : NVML_SUCCESS;
}

/* Before Ampere, and on GA100 (8.0), the power reading is instantaneous; later it is the mean of the last second. */
static bool power_is_mean(int gpu)
{
    int major = spec.gpu[gpu].capability_major, minor = spec.gpu[gpu].capability_minor;
    return major > 8 || (major == 8 && minor > 0);
}

nvmlReturn_t nvmlDeviceGetTotalEnergyConsumption(nvmlDevice_t device, unsigned long long *energy_mj)
{
    ENTER(device);
    nvmlReturn_t result = sensor(device);
    if (result == NVML_SUCCESS && world_fault(&spec, device->gpu, FAULT_NO_COUNTER))
        result = NVML_ERROR_NOT_SUPPORTED;
    if (result == NVML_SUCCESS)
        *energy_mj = world_counter_mj(&spec, device->gpu, spec.module_is_default);
    return result;
}

nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t device, unsigned *power_mw)
{
    ENTER(device);
    nvmlReturn_t result = sensor(device);
    if (result == NVML_SUCCESS && world_fault(&spec, device->gpu, FAULT_NO_POWER))
        result = NVML_ERROR_NOT_SUPPORTED;
    if (result != NVML_SUCCESS)
        return result;
    bool module = spec.module_is_default;
    double power_w = power_is_mean(device->gpu) ? world_mean_power_w(&spec, device->gpu, module)
                                                : world_power_w(&spec, device->gpu, module);
    *power_mw = world_power_mw(&spec, device->gpu, power_w);
    return NVML_SUCCESS;
}

struct field_value {
    uint32_t field_id, scope_id;
    int64_t timestamp, latency_us;
    uint32_t value_type;
    nvmlReturn_t result;
    union {
        double d;
        unsigned ui;
        unsigned long long ull;
    } value;
};

enum { FIELD_TOTAL_ENERGY = 83, FIELD_POWER_AVERAGE = 185, FIELD_POWER_INSTANT = 186, FIELD_ENERGY = 191 };
enum { TYPE_UNSIGNED_INT = 1, TYPE_UNSIGNED_LONG_LONG = 3 };
enum { SCOPE_GPU = 0, SCOPE_MODULE = 1 };

static nvmlReturn_t field(nvmlDevice_t device, struct field_value *out)
{
    int gpu = device->gpu;
    bool module = out->scope_id == SCOPE_MODULE;
    bool energy = out->field_id == FIELD_ENERGY || out->field_id == FIELD_TOTAL_ENERGY;
    bool power = out->field_id == FIELD_POWER_AVERAGE || out->field_id == FIELD_POWER_INSTANT;
    if ((!energy && !power) || out->scope_id > SCOPE_MODULE || world_fault(&spec, gpu, FAULT_NO_FIELD))
        return NVML_ERROR_NOT_SUPPORTED;
    if (module && spec.gpu[gpu].module_power_w <= 0)
        return NVML_ERROR_NOT_SUPPORTED;
    if (energy && world_fault(&spec, gpu, FAULT_NO_COUNTER))
        return NVML_ERROR_NOT_SUPPORTED;
    if (power && world_fault(&spec, gpu, FAULT_NO_POWER))
        return NVML_ERROR_NOT_SUPPORTED;
    if (out->field_id == FIELD_POWER_AVERAGE && !power_is_mean(gpu))
        return NVML_ERROR_NOT_SUPPORTED;
    if (energy) {
        out->value_type = TYPE_UNSIGNED_LONG_LONG;
        out->value.ull = world_counter_mj(&spec, gpu, module);
    } else {
        out->value_type = TYPE_UNSIGNED_INT;
        double power_w = out->field_id == FIELD_POWER_AVERAGE ? world_mean_power_w(&spec, gpu, module)
                                                              : world_power_w(&spec, gpu, module);
        out->value.ui = world_power_mw(&spec, gpu, power_w);
    }
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t device, int count, struct field_value *values)
{
    ENTER(device);
    nvmlReturn_t result = sensor(device);
    for (int i = 0; i < count && result == NVML_SUCCESS; i++)
        values[i].result = field(device, &values[i]);
    return result;
}

/* The limit in force: the default one unless a fault lowers it. */
static double limit_w(nvmlDevice_t device)
{
    const struct fault *lowered = world_fault(&spec, device->gpu, FAULT_LIMIT);
    return lowered ? lowered->argument : spec.gpu[device->gpu].limit_w;
}

static nvmlReturn_t limit_mw(nvmlDevice_t device, unsigned *limit)
{
    *limit = (unsigned)(1e3 * limit_w(device));
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetEnforcedPowerLimit(nvmlDevice_t device, unsigned *limit)
{
    ENTER(device);
    return limit_mw(device, limit);
}

nvmlReturn_t nvmlDeviceGetPowerManagementLimit(nvmlDevice_t device, unsigned *limit)
{
    ENTER(device);
    return limit_mw(device, limit);
}

nvmlReturn_t nvmlDeviceGetPowerManagementDefaultLimit(nvmlDevice_t device, unsigned *limit)
{
    ENTER(device);
    *limit = (unsigned)(1e3 * spec.gpu[device->gpu].limit_w);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetPowerManagementLimitConstraints(nvmlDevice_t device, unsigned *least, unsigned *most)
{
    ENTER(device);
    *least = (unsigned)(500 * spec.gpu[device->gpu].limit_w);
    *most = (unsigned)(1e3 * spec.gpu[device->gpu].limit_w);
    return NVML_SUCCESS;
}

struct memory {
    unsigned long long total, free, used;
};

struct memory_v2 {
    unsigned version;
    unsigned long long total, reserved, free, used;
};

nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, struct memory *memory)
{
    ENTER(device);
    memory->total = (unsigned long long)(spec.gpu[device->gpu].memory_gib * 1073741824.0);
    memory->used = memory->total / 2;
    memory->free = memory->total - memory->used;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, struct memory_v2 *memory)
{
    struct memory plain;
    ENTER(device);
    nvmlDeviceGetMemoryInfo(device, &plain);
    memory->total = plain.total;
    memory->reserved = 0;
    memory->free = plain.free;
    memory->used = plain.used;
    return NVML_SUCCESS;
}

struct utilization {
    unsigned gpu, memory;
};

nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, struct utilization *out)
{
    ENTER(device);
    if (device->slice >= 0)
        return NVML_ERROR_NOT_SUPPORTED;
    double share = world_power_w(&spec, device->gpu, false) / spec.gpu[device->gpu].limit_w;
    out->gpu = share >= 1 ? 100 : (unsigned)(100 * share);
    out->memory = out->gpu / 2;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t device, unsigned sensor_id, unsigned *celsius)
{
    enum { BY_TEMPERATURE = 0x60 };
    (void)sensor_id;
    ENTER(device);
    const struct fault *throttled = world_fault(&spec, device->gpu, FAULT_THROTTLE);
    bool hot = throttled && ((unsigned long long)throttled->argument & BY_TEMPERATURE);
    *celsius = hot ? 87 : 55;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetClockInfo(nvmlDevice_t device, unsigned type, unsigned *mhz)
{
    ENTER(device);
    bool throttled = world_fault(&spec, device->gpu, FAULT_THROTTLE) != NULL;
    *mhz = type == 2 ? 2619 : throttled ? 1200 : 1755;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMaxClockInfo(nvmlDevice_t device, unsigned type, unsigned *mhz)
{
    ENTER(device);
    *mhz = type == 2 ? 2619 : 1980;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetCurrentClocksThrottleReasons(nvmlDevice_t device, unsigned long long *reasons)
{
    enum { SOFTWARE_POWER_CAP = 4 };
    ENTER(device);
    const struct fault *throttled = world_fault(&spec, device->gpu, FAULT_THROTTLE);
    bool capped = world_power_w(&spec, device->gpu, false) >= limit_w(device);
    *reasons = (capped ? SOFTWARE_POWER_CAP : 0) | (throttled ? (unsigned long long)throttled->argument : 0);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetCurrentClocksEventReasons(nvmlDevice_t device, unsigned long long *reasons)
{
    return nvmlDeviceGetCurrentClocksThrottleReasons(device, reasons);
}
