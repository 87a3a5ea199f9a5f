/* The part of AMD's public amdsmi.h that the simulator answers, laid out as in ROCm 7.0. */
#ifndef AMD_SMI_SIMULATOR_H
#define AMD_SMI_SIMULATOR_H

#include <stdint.h>

typedef uint32_t amdsmi_status_t;
typedef void *amdsmi_processor_handle;
typedef void *amdsmi_socket_handle;

enum {
    AMDSMI_STATUS_SUCCESS = 0,
    AMDSMI_STATUS_INVAL = 1,
    AMDSMI_STATUS_NOT_SUPPORTED = 2,
    AMDSMI_STATUS_NO_PERM = 10,
    AMDSMI_STATUS_NOT_FOUND = 31,
    AMDSMI_STATUS_NOT_INIT = 32,
    AMDSMI_STATUS_INSUFFICIENT_SIZE = 41,
};

enum { STRING = 256 };

struct asic_info {
    char market_name[STRING];
    uint32_t vendor_id;
    char vendor_name[STRING];
    uint32_t subvendor_id;
    uint64_t device_id;
    uint32_t rev_id;
    char asic_serial[STRING];
    uint32_t oam_id, compute_units;
    uint64_t target_graphics_version;
    uint32_t subsystem_id, reserved[21];
};

struct enumeration_info {
    uint32_t drm_render, drm_card, hsa_id, hip_id;
    char hip_uuid[STRING];
};

struct driver_info {
    char driver_version[STRING], driver_date[STRING], driver_name[STRING];
};

struct power_info {
    uint64_t socket_power;
    uint32_t current_socket_power, average_socket_power;
    uint64_t gfx_voltage, soc_voltage, mem_voltage;
    uint32_t power_limit;
    uint64_t reserved[18];
};

struct power_cap_info {
    uint64_t power_cap, default_power_cap, dpm_cap, min_power_cap, max_power_cap, reserved[3];
};

struct clk_info {
    uint32_t clk, min_clk, max_clk;
    uint8_t locked, deep_sleep;
    uint32_t reserved[4];
};

/* The metrics are a table of 4,544 bytes, of which only the counters of what holds the clocks back are told. */
enum { METRICS_BYTES = 4544, METRICS_PROCHOT = 432, METRICS_PPT = 440 };

_Static_assert(sizeof(struct asic_info) == 896, "as in amdsmi.h");
_Static_assert(sizeof(struct enumeration_info) == 272, "as in amdsmi.h");
_Static_assert(sizeof(struct power_info) == 192, "as in amdsmi.h");
_Static_assert(sizeof(struct power_cap_info) == 64, "as in amdsmi.h");
_Static_assert(sizeof(struct clk_info) == 32, "as in amdsmi.h");

#endif
