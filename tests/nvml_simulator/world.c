/* The simulated world: its clock, and the exact integral of each power curve.
 *
 * The clock is CLOCK_MONOTONIC, which all processes of a host share, so two processes see the same counter; or it is a
 * file with the seconds of now, so that a test decides when time goes on, however slow the machine is.
 * `speed` compresses the schedule (curves, faults, counter steps, the 1 s mean) but not the watts: joules are
 * watts times real seconds at any speed. */
#define _POSIX_C_SOURCE 200809L
#include "simulator.h"

#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

static const double PI = 3.14159265358979323846;

static double clock_s(const struct spec *spec)
{
    if (spec->clock[0]) {
        double seconds = 0;
        FILE *file = fopen(spec->clock, "r");
        if (!file || fscanf(file, "%lf", &seconds) != 1)
            fprintf(stderr, "simulated driver: no time in %s\n", spec->clock);
        if (file)
            fclose(file);
        return seconds;
    }
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

double world_now_s(const struct spec *spec)
{
    double elapsed_s = clock_s(spec) - spec->epoch_s;
    return elapsed_s > 0 ? elapsed_s * spec->speed : 0;
}

void world_sleep(const struct spec *spec, double seconds)
{
    if (spec->clock[0]) {
        double later_s = clock_s(spec) + seconds;
        FILE *file = fopen(spec->clock, "w");
        if (file) {
            fprintf(file, "%.17g", later_s);
            fclose(file);
        }
        return;
    }
    struct timespec left = {(time_t)seconds, (long)(1e9 * (seconds - floor(seconds)))};
    while (nanosleep(&left, &left) != 0)
        ;
}

/* When the times of faults count from: the moment at which the file `armed` was first seen, else the epoch. */
static double armed_s(const struct spec *spec)
{
    static double seen_s = -1, asked_s = 0;
    if (!spec->armed[0])
        return 0;
    double last_s = asked_s;
    asked_s = world_now_s(spec);
    if (seen_s < 0 && access(spec->armed, F_OK) == 0)
        seen_s = last_s; /* it appeared since the last look, so that the call which sees it first is after it */
    return seen_s < 0 ? INFINITY : seen_s;
}

/* A fault without a time is always in force. */
static double start_s(const struct spec *spec, const struct fault *fault)
{
    return fault->start_s < 0 ? fault->start_s : fault->start_s + armed_s(spec);
}

static double end_s(const struct spec *spec, const struct fault *fault)
{
    return fault->start_s < 0 ? fault->end_s : fault->end_s + armed_s(spec);
}

const struct fault *world_fault(const struct spec *spec, int target, enum fault_kind kind)
{
    double now_s = world_now_s(spec);
    for (int i = spec->faults - 1; i >= 0; i--) {
        const struct fault *fault = &spec->fault[i];
        bool aimed = fault->target == target || (fault->target == TARGET_ALL && target >= 0);
        if (aimed && fault->kind == kind && now_s >= start_s(spec, fault) && now_s < end_s(spec, fault))
            return fault;
    }
    return NULL;
}

static double power_at(const struct curve *curve, double time_s)
{
    switch (curve->shape) {
    case CURVE_SQUARE:
        return fmod(time_s, curve->period_s) < curve->period_s / 2 ? curve->a : curve->b;
    case CURVE_SINE:
        return curve->a + curve->b * sin(2 * PI * time_s / curve->period_s);
    case CURVE_STEPS: {
        double power_w = curve->step_power_w[0];
        for (int i = 0; i < curve->steps && curve->step_time_s[i] <= time_s; i++)
            power_w = curve->step_power_w[i];
        return power_w;
    }
    default:
        return curve->a;
    }
}

/* Integral of the curve from 0 to time_s, in watts times simulated seconds. */
static double integral(const struct curve *curve, double time_s)
{
    switch (curve->shape) {
    case CURVE_SQUARE: {
        double half_s = curve->period_s / 2;
        double rest_s = fmod(time_s, curve->period_s);
        double full = floor(time_s / curve->period_s) * half_s * (curve->a + curve->b);
        return full + curve->a * fmin(rest_s, half_s) + curve->b * fmax(rest_s - half_s, 0);
    }
    case CURVE_SINE: {
        double angular = 2 * PI / curve->period_s;
        return curve->a * time_s + curve->b / angular * (1 - cos(angular * time_s));
    }
    case CURVE_STEPS: {
        double sum = curve->step_power_w[0] * fmin(time_s, curve->step_time_s[0]);
        for (int i = 0; i < curve->steps && curve->step_time_s[i] < time_s; i++) {
            double end_s = i + 1 < curve->steps ? fmin(curve->step_time_s[i + 1], time_s) : time_s;
            sum += curve->step_power_w[i] * (end_s - curve->step_time_s[i]);
        }
        return sum;
    }
    default:
        return curve->a * time_s;
    }
}

static double work(const struct spec *spec, int gpu, bool module, double time_s)
{
    const struct gpu *g = &spec->gpu[gpu];
    return integral(&g->power, time_s) + (module ? g->module_power_w * time_s : 0);
}

double world_power_w(const struct spec *spec, int gpu, bool module)
{
    const struct gpu *g = &spec->gpu[gpu];
    return power_at(&g->power, world_now_s(spec)) + (module ? g->module_power_w : 0);
}

double world_mean_power_w(const struct spec *spec, int gpu, bool module)
{
    double now_s = world_now_s(spec);
    double from_s = fmax(now_s - 1, 0);
    if (now_s <= from_s)
        return world_power_w(spec, gpu, module);
    return (work(spec, gpu, module, now_s) - work(spec, gpu, module, from_s)) / (now_s - from_s);
}

/* Joules on the counter: it moves once a step, starts again at a reset and stands still while stuck. */
double world_energy_j(const struct spec *spec, int gpu, bool module)
{
    double now_s = world_now_s(spec);
    double from_s = 0, start_j = spec->gpu[gpu].counter_start_j;
    const struct fault *stuck = world_fault(spec, gpu, FAULT_STUCK);
    if (stuck)
        now_s = fmax(start_s(spec, stuck), 0);
    for (int i = 0; i < spec->faults; i++) {
        const struct fault *fault = &spec->fault[i];
        bool aimed = fault->target == gpu || fault->target == TARGET_ALL;
        if (aimed && fault->kind == FAULT_RESET && now_s >= start_s(spec, fault) && start_s(spec, fault) >= from_s) {
            from_s = start_s(spec, fault);
            start_j = fault->argument;
        }
    }
    double stepped_s = floor(now_s / spec->counter_step_s) * spec->counter_step_s;
    if (stepped_s <= from_s)
        return start_j;
    return start_j + (work(spec, gpu, module, stepped_s) - work(spec, gpu, module, from_s)) / spec->speed;
}

/* What the counter shows: the joules on it, moved by all offsets in force, or a figure that has nothing to do with them. */
unsigned long long world_counter_mj(const struct spec *spec, int gpu, bool module)
{
    const double MOST = 18446744073709551615.0;
    double now_s = world_now_s(spec), energy_j = world_energy_j(spec, gpu, module);
    for (int i = 0; i < spec->faults; i++) {
        const struct fault *fault = &spec->fault[i];
        bool aimed = fault->target == gpu || fault->target == TARGET_ALL;
        if (aimed && fault->kind == FAULT_OFFSET && now_s >= start_s(spec, fault) && now_s < end_s(spec, fault))
            energy_j += fault->argument;
    }
    const struct fault *reads = world_fault(spec, gpu, FAULT_COUNTER_READS);
    double energy_mj = fmax(0, 1e3 * (reads ? reads->argument : energy_j));
    return energy_mj >= MOST ? ~0ull : (unsigned long long)energy_mj;
}

/* What the power call shows of a power. */
unsigned world_power_mw(const struct spec *spec, int gpu, double power_w)
{
    const struct fault *reads = world_fault(spec, gpu, FAULT_POWER_READS);
    double power_mw = 1e3 * (reads ? reads->argument : power_w) + 0.5;
    return power_mw >= 4294967295.0 ? ~0u : (unsigned)power_mw;
}

void world_log(const struct spec *spec, const char *function, int gpu)
{
    char line[160];
    if (!spec->log[0])
        return;
    int file = open(spec->log, O_WRONLY | O_APPEND | O_CREAT, 0644);
    if (file < 0)
        return;
    int length = snprintf(line, sizeof line, "%d %s %d\n", (int)getpid(), function, gpu);
    if (write(file, line, (size_t)length) != length)
        fprintf(stderr, "simulated driver: cannot write %s\n", spec->log);
    close(file);
}
