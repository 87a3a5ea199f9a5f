"""The patience of jobs on a machine that is busy with others, or that holds a process up."""

from __future__ import annotations

PATIENCE_S = 240.0


def be_patient(*, with_drivers: bool = True) -> None:
    """Let this process wait for as long as a test waits, where it gives up only what it takes for broken: a driver, a
    service, a rank that has not begun, a process that does not come to its end, and its own record. No rank keeps a
    ledger of its own of the time before local rank 0 began, or takes over what another one has ended to meter.

    A job whose driver is to be slow is not patient with drivers.
    """
    from carbon_plugin.footprint.live import feed
    from carbon_plugin.meters.gpu import meter, session
    from carbon_plugin.monitor import measurement
    from carbon_plugin.monitor.node import duty
    from carbon_plugin.monitor.processes import leader

    if with_drivers:
        session.OPEN_WAIT_S = meter.READ_WAIT_S = meter.DESCRIBE_WAIT_S = meter.CONTEXT_WAIT_S = PATIENCE_S
    duty.FIRST_LEAD_S = duty.GRACE_S = duty.STRETCH_S = duty.LEFT_S = PATIENCE_S
    feed.DEADLINE_S = leader.DYING_S = measurement.CLOSE_TIMEOUT_S = PATIENCE_S
