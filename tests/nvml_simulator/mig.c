/* The NVML entry points for MIG slices and for the processes on a device. */
#include "driver.h"

#include <stdint.h>
#include <string.h>

struct process_info {
    unsigned pid;
    unsigned long long used_memory;
    unsigned gpu_instance, compute_instance;
};

nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t device, unsigned *count, struct process_info *out)
{
    ENTER(device);
    unsigned room = *count, found = 0;
    for (int i = 0; i < spec.processes; i++) {
        if (spec.process[i].gpu != device->gpu)
            continue;
        if (out && found < room)
            out[found] = (struct process_info){spec.process[i].pid, 1ull << 30, UINT32_MAX, UINT32_MAX};
        found++;
    }
    *count = found;
    return found > room ? NVML_ERROR_INSUFFICIENT_SIZE : NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t device, unsigned *current, unsigned *pending)
{
    ENTER(device);
    if (spec.gpu[device->gpu].capability_major < 8)
        return NVML_ERROR_NOT_SUPPORTED;
    *current = *pending = spec.gpu[device->gpu].slices > 0;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t device, unsigned *count)
{
    ENTER(device);
    *count = spec.gpu[device->gpu].capability_major < 8 ? 0 : MAX_SLICES;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t device, unsigned index, nvmlDevice_t *slice)
{
    ENTER(device);
    if (index >= (unsigned)spec.gpu[device->gpu].slices)
        return NVML_ERROR_NOT_FOUND;
    *slice = &slices[device->gpu][index];
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceIsMigDeviceHandle(nvmlDevice_t device, unsigned *is_slice)
{
    ENTER(device);
    *is_slice = device->slice >= 0;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetDeviceHandleFromMigDeviceHandle(nvmlDevice_t slice, nvmlDevice_t *device)
{
    ENTER(slice);
    if (slice->slice < 0)
        return NVML_ERROR_INVALID_ARGUMENT;
    *device = &gpus[slice->gpu];
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetGpuInstanceId(nvmlDevice_t slice, unsigned *id)
{
    ENTER(slice);
    if (slice->slice < 0)
        return NVML_ERROR_NOT_SUPPORTED;
    *id = (unsigned)slice->slice + 1;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetComputeInstanceId(nvmlDevice_t slice, unsigned *id)
{
    ENTER(slice);
    *id = 0;
    return slice->slice < 0 ? NVML_ERROR_NOT_SUPPORTED : NVML_SUCCESS;
}

struct attributes {
    unsigned multiprocessors, copy_engines, decoders, encoders, jpeg, ofa, gpu_slices, compute_slices;
    unsigned long long memory_mib;
};

nvmlReturn_t nvmlDeviceGetAttributes_v2(nvmlDevice_t device, struct attributes *out)
{
    ENTER(device);
    if (device->slice < 0)
        return NVML_ERROR_NOT_SUPPORTED;
    unsigned size = (unsigned)spec.gpu[device->gpu].slice_size[device->slice];
    unsigned compute = (unsigned)spec.gpu[device->gpu].compute_size[device->slice];
    memset(out, 0, sizeof *out);
    out->multiprocessors = 16 * compute;
    out->gpu_slices = size;
    out->compute_slices = compute;
    out->memory_mib = (unsigned long long)(spec.gpu[device->gpu].memory_gib * 1024 * size / 8);
    return NVML_SUCCESS;
}
