/* What the entry points share: handles, the spec in force, and the check that opens every call on a device. */
#ifndef NVML_SIMULATOR_DRIVER_H
#define NVML_SIMULATOR_DRIVER_H

#include "simulator.h"

typedef int nvmlReturn_t;

/* A handle: a GPU, or slice `slice` of it where slice >= 0. */
struct device {
    int gpu, slice;
};
typedef struct device *nvmlDevice_t;

extern struct spec spec;
extern struct device gpus[MAX_GPUS];
extern struct device slices[MAX_GPUS][MAX_SLICES];

/* What every call on a device has in common: it is logged, and the device must be initialised, valid, not lost. */
nvmlReturn_t enter(const char *function, nvmlDevice_t device);

#define ENTER(device)                                    \
    do {                                                 \
        nvmlReturn_t entered = enter(__func__, device);  \
        if (entered != NVML_SUCCESS)                     \
            return entered;                              \
    } while (0)

#endif
