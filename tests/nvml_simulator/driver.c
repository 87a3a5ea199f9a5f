/* The NVML entry points for the library and the identity of devices. Signatures follow the public NVML API; what is
 * missing here pynvml answers with NVML_ERROR_FUNCTION_NOT_FOUND, as with an old driver. */
#define _POSIX_C_SOURCE 200809L
#include "driver.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct spec spec;
struct device gpus[MAX_GPUS];
struct device slices[MAX_GPUS][MAX_SLICES];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int references;

nvmlReturn_t enter(const char *function, nvmlDevice_t device)
{
    world_log(&spec, function, device ? device->gpu : -1);
    if (references == 0)
        return NVML_ERROR_UNINITIALIZED;
    if (!device || device->gpu >= spec.gpus)
        return NVML_ERROR_INVALID_ARGUMENT;
    return world_fault(&spec, device->gpu, FAULT_LOST) ? NVML_ERROR_GPU_IS_LOST : NVML_SUCCESS;
}

static nvmlReturn_t system_enter(const char *function)
{
    world_log(&spec, function, -1);
    return references == 0 ? NVML_ERROR_UNINITIALIZED : NVML_SUCCESS;
}

static nvmlReturn_t copy_text(char *out, unsigned length, const char *text)
{
    if (strlen(text) >= length)
        return NVML_ERROR_INSUFFICIENT_SIZE;
    memcpy(out, text, strlen(text) + 1);
    return NVML_SUCCESS;
}

static void uuid_of(nvmlDevice_t device, char *out, size_t length)
{
    const char *gpu_uuid = spec.gpu[device->gpu].uuid;
    if (device->slice < 0)
        snprintf(out, length, "%s", gpu_uuid);
    else
        snprintf(out, length, "MIG-%08x-%.24s%03x", 0xa0u + (unsigned)device->slice,
                 strlen(gpu_uuid) > 13 ? gpu_uuid + 13 : gpu_uuid, (unsigned)(16 * device->gpu + device->slice));
}

nvmlReturn_t nvmlInitWithFlags(unsigned flags)
{
    (void)flags;
    pthread_mutex_lock(&lock);
    if (references == 0) {
        const char *text = getenv("NVML_SIM");
        if (!spec_parse(&spec, text ? text : "")) {
            pthread_mutex_unlock(&lock);
            return NVML_ERROR_INVALID_ARGUMENT;
        }
        for (int i = 0; i < MAX_GPUS; i++) {
            gpus[i] = (struct device){i, -1};
            for (int j = 0; j < MAX_SLICES; j++)
                slices[i][j] = (struct device){i, j};
        }
    }
    world_log(&spec, __func__, -1);
    const struct fault *slow = world_fault(&spec, TARGET_INIT, FAULT_SLOW);
    const struct fault *denied = world_fault(&spec, TARGET_INIT, FAULT_NO_PERMISSION);
    const struct fault *failing = world_fault(&spec, TARGET_INIT, FAULT_ERROR);
    if (slow)
        world_sleep(&spec, slow->argument / spec.speed);
    nvmlReturn_t result = denied ? NVML_ERROR_NO_PERMISSION : failing ? (nvmlReturn_t)failing->argument : NVML_SUCCESS;
    if (result == NVML_SUCCESS)
        references++;
    pthread_mutex_unlock(&lock);
    return result;
}

nvmlReturn_t nvmlInit_v2(void)
{
    return nvmlInitWithFlags(0);
}

nvmlReturn_t nvmlShutdown(void)
{
    pthread_mutex_lock(&lock);
    world_log(&spec, __func__, -1);
    nvmlReturn_t result = references > 0 ? NVML_SUCCESS : NVML_ERROR_UNINITIALIZED;
    if (references > 0)
        references--;
    pthread_mutex_unlock(&lock);
    return result;
}

const char *nvmlErrorString(nvmlReturn_t result)
{
    static const char *const TEXTS[] = {
        [NVML_SUCCESS] = "Success",
        [NVML_ERROR_UNINITIALIZED] = "Uninitialized",
        [NVML_ERROR_INVALID_ARGUMENT] = "Invalid Argument",
        [NVML_ERROR_NOT_SUPPORTED] = "Not Supported",
        [NVML_ERROR_NO_PERMISSION] = "Insufficient Permissions",
        [NVML_ERROR_NOT_FOUND] = "Not Found",
        [NVML_ERROR_INSUFFICIENT_SIZE] = "Insufficient Size",
        [NVML_ERROR_DRIVER_NOT_LOADED] = "Driver Not Loaded",
        [NVML_ERROR_TIMEOUT] = "Timeout",
        [NVML_ERROR_GPU_IS_LOST] = "GPU is lost",
        [NVML_ERROR_LIB_RM_VERSION_MISMATCH] = "Driver/library version mismatch",
    };
    bool known = result >= 0 && (size_t)result < sizeof TEXTS / sizeof *TEXTS && TEXTS[result];
    return known ? TEXTS[result] : "Unknown Error";
}

nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned length)
{
    nvmlReturn_t entered = system_enter(__func__);
    return entered != NVML_SUCCESS ? entered : copy_text(version, length, "570.0.simulated");
}

nvmlReturn_t nvmlSystemGetNVMLVersion(char *version, unsigned length)
{
    nvmlReturn_t entered = system_enter(__func__);
    return entered != NVML_SUCCESS ? entered : copy_text(version, length, "12.570.0.simulated");
}

nvmlReturn_t nvmlSystemGetCudaDriverVersion(int *version)
{
    *version = 12080;
    return system_enter(__func__);
}

nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *version)
{
    return nvmlSystemGetCudaDriverVersion(version);
}

nvmlReturn_t nvmlDeviceGetCount_v2(unsigned *count)
{
    *count = (unsigned)spec.gpus;
    return system_enter(__func__);
}

nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned index, nvmlDevice_t *device)
{
    if (references > 0 && index >= (unsigned)spec.gpus)
        return NVML_ERROR_INVALID_ARGUMENT;
    *device = &gpus[index];
    ENTER(*device);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device)
{
    char own[TEXT];
    nvmlReturn_t entered = system_enter(__func__);
    if (entered != NVML_SUCCESS)
        return entered;
    for (int i = 0; i < spec.gpus; i++)
        for (int j = -1; j < spec.gpu[i].slices; j++) {
            nvmlDevice_t candidate = j < 0 ? &gpus[i] : &slices[i][j];
            uuid_of(candidate, own, sizeof own);
            if (strcmp(own, uuid) == 0) {
                *device = candidate;
                return enter(__func__, candidate);
            }
        }
    return NVML_ERROR_NOT_FOUND;
}

nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *name, unsigned length)
{
    char text[2 * TEXT];
    ENTER(device);
    const char *suffix = "";
    char profile[32];
    if (device->slice >= 0) {
        int size = spec.gpu[device->gpu].slice_size[device->slice];
        int compute = spec.gpu[device->gpu].compute_size[device->slice];
        if (compute == size)
            snprintf(profile, sizeof profile, " MIG %dg.%dgb", size, 10 * size);
        else
            snprintf(profile, sizeof profile, " MIG %dc.%dg.%dgb", compute, size, 10 * size);
        suffix = profile;
    }
    snprintf(text, sizeof text, "%s%s", spec.gpu[device->gpu].name, suffix);
    return copy_text(name, length, text);
}

nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *uuid, unsigned length)
{
    char text[TEXT];
    ENTER(device);
    uuid_of(device, text, sizeof text);
    return copy_text(uuid, length, text);
}

nvmlReturn_t nvmlDeviceGetIndex(nvmlDevice_t device, unsigned *index)
{
    ENTER(device);
    *index = (unsigned)(device->slice < 0 ? device->gpu : device->slice);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMinorNumber(nvmlDevice_t device, unsigned *minor)
{
    ENTER(device);
    *minor = spec.gpu[device->gpu].minor;
    return NVML_SUCCESS;
}

struct pci_info {
    char bus_id_legacy[16];
    unsigned domain, bus, device, pci_device_id, pci_subsystem_id;
    char bus_id[32];
};

nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, struct pci_info *info)
{
    ENTER(device);
    memset(info, 0, sizeof *info);
    info->bus = 0x10u + (unsigned)device->gpu;
    snprintf(info->bus_id_legacy, sizeof info->bus_id_legacy, "0000:%02X:00.0", info->bus & 0xffu);
    snprintf(info->bus_id, sizeof info->bus_id, "00000000:%02X:00.0", info->bus & 0xffu);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetCudaComputeCapability(nvmlDevice_t device, int *major, int *minor)
{
    ENTER(device);
    *major = spec.gpu[device->gpu].capability_major;
    *minor = spec.gpu[device->gpu].capability_minor;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetArchitecture(nvmlDevice_t device, unsigned *architecture)
{
    enum { PASCAL = 4, VOLTA, TURING, AMPERE, ADA, HOPPER, BLACKWELL };
    ENTER(device);
    int major = spec.gpu[device->gpu].capability_major, minor = spec.gpu[device->gpu].capability_minor;
    *architecture = major >= 10                 ? BLACKWELL
                    : major == 9                ? HOPPER
                    : major == 8 && minor >= 9  ? ADA
                    : major == 8                ? AMPERE
                    : major == 7 && minor >= 5  ? TURING
                    : major == 7                ? VOLTA
                                                : PASCAL;
    return NVML_SUCCESS;
}
