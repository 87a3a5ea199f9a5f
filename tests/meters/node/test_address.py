"""Addresses of node meters: what they mean, and what is said about those that cannot be used."""

from __future__ import annotations

import pytest

from carbon_plugin.errors import SpecError
from carbon_plugin.meters.node.address import chosen_address, parse_address


@pytest.mark.parametrize(
    ("text", "kind", "shown", "secure"),
    [
        ("redfish://bmc7:8443/redfish/v1/Chassis/1/", "redfish", "redfish bmc7:8443/redfish/v1/Chassis/1", True),
        ("redfish+http://bmc7", "redfish", "redfish bmc7", False),
        ("ipmi", "ipmi", "ipmi", True),
        ("ipmi://bmc7", "ipmi", "ipmi bmc7", True),
        ("pm_counters", "pm_counters", "pm_counters", True),
        ("pm_counters:///sys/cray/pm_counters", "pm_counters", "pm_counters /sys/cray/pm_counters", True),
        ("slurm", "slurm", "slurm", True),
        ("prometheus+http://host:9090?query=sum(node_watts)", "prometheus", "prometheus host:9090", False),
        ("csv:///var/log/power.csv?column=node_w", "csv", "csv /var/log/power.csv", True),
    ],
)
def test_an_address_is_one_string(text: str, kind: str, shown: str, secure: bool) -> None:
    address = parse_address(text)
    assert (address.kind, address.shown, address.secure) == (kind, shown, secure)


def test_a_facility_states_the_share_that_is_the_jobs() -> None:
    address = parse_address("csv:///power.csv?column=hall_w&covers=facility&share=0.25")
    assert (address.covers, address.share) == ("facility", 0.25)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("redfsh://bmc7", "unknown node_meter 'redfsh'; nearest: redfish"),
        ("redfish://", "redfish needs a host"),
        ("redfish+ssh://bmc7", "redfish+ssh:// is not known, expected redfish://"),
        ("ipmi+http://bmc7", "ipmi+http:// is not known"),
        ("redfish://bmc7:99999", "cannot be read"),
        ("prometheus://host", "prometheus needs query="),
        ("csv:///power.csv", "csv needs column="),
        ("csv://?column=node_w", "csv needs a file"),
        ("csv:///p.csv?column=node_w&unit=kW", "unit is 'kW', expected W (power) or J"),
        ("redfish://bmc7?query=x", "unknown node_meter option of redfish 'query'"),
        ("redfish://bmc7?verify=maybe", "verify is 'maybe', expected yes or no"),
        ("redfish://bmc7?share=0.5", "share is for covers=facility"),
        ("redfish://bmc7?covers=facility", "covers=facility needs share="),
        ("redfish://bmc7?covers=rack", "covers is 'rack', expected node or facility"),
        ("redfish://bmc7?covers=facility&share=2", "share is '2', expected a number above 0 and at most 1"),
    ],
)
def test_an_address_that_cannot_be_used_says_why(text: str, words: str) -> None:
    with pytest.raises(SpecError) as raised:
        parse_address(text)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_credentials_in_an_address_are_refused_and_not_repeated() -> None:
    with pytest.raises(SpecError) as raised:
        parse_address("redfish://admin:hunter2@bmc7")
    assert "CARBON_PLUGIN_NODE_METER_PASSWORD" in str(raised.value)
    assert "hunter2" not in str(raised.value)


def test_the_environment_names_the_meter_where_the_caller_does_not() -> None:
    environ = {"CARBON_PLUGIN_NODE_METER": "ipmi"}
    assert chosen_address(None, {}) is None
    from_environment, from_caller = chosen_address(None, environ), chosen_address("slurm", environ)
    assert from_environment is not None
    assert from_caller is not None
    assert (from_environment.kind, from_caller.kind) == ("ipmi", "slurm")
